"""Restoring: what comes back, what is left alone, and what must never happen."""
