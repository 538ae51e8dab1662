"""What is in the repository file: database, schema, catalog, contents, packs. Knows no user files."""
