"""Encrypted repositories: the construction, where its wrapped keys lie, and what proves that nothing was put back.

Nothing in here is imported for a repository that is not encrypted, but for how a file is told apart.
"""
