"""Removing snapshots: which ones a policy lets go, what only they use, and giving the room back."""
