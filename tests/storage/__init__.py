"""What is in the repository file: a module for each concept of backuptool.storage."""
