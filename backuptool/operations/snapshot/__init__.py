"""Saving a directory: walk it, compare it with its last snapshot, read what changed, record it."""
