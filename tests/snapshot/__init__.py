"""Snapshots: what is saved and counted, what changes meanwhile, what is left when one is stopped."""
