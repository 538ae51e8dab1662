"""Writing a snapshot into a directory: what is there already is left, what is written is verified."""
