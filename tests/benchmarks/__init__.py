"""Benchmarks against other backup programs: ``python -m tests.benchmarks --help``.

What a backup program is asked to do is in ``plan``, on which data in ``datasets``, how each program is told to do it
in ``programs`` and ``yardsticks``; ``runner`` does it, ``measure`` takes the time, ``report`` makes the tables. How to
read the figures is written in docs/benchmarks.md.
"""
