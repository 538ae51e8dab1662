"""Making snapshots of what arrives otherwise than in a directory: files that are given, and tar streams."""
