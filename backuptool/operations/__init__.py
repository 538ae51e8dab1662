"""The verbs: what a repository is asked to do, each with the steps and the decisions of its own.

A package for each of the large ones, and for the questions; a module for each of the small ones: annotate, drill,
export, keys, listing, stats. Packages import nothing from each other. What several of them need lies beside them:
committing and large_files for those that make snapshots, selecting, validating and findings for those that give files
back, sources for those that take a policy or count, processes for those that have help.
"""
