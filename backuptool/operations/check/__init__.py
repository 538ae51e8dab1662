"""Verifying a repository: what its tables add up to, and every byte of its packs."""
