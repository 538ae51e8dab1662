"""Trees of user files: walking and reading a source, writing a destination. Knows no SQL."""
