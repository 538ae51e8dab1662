"""Trees of files: a module for each concept of backuptool.tree."""
