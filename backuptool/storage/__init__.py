"""What is in the repository file: database, schema, snapshots, files, contents, packs. Knows no user files."""
