"""Copying snapshots to another repository, verified on the way."""
