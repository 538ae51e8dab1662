"""The reliability programme: every promise of docs/promises.md as a test that fails when the promise breaks.

One module a row of the table in docs/reliability.md. Each has a function ``run(effort)`` that tries something many
times and returns :class:`~.programme.Figures`, tests of its short form, and controls: the same with a fault put in,
which must be found, for a test that cannot fail counts for nothing.

    python -m pytest -m reliability          the short form of all rows, minutes
    python -m tests.reliability              the same, printing the figures
    python -m tests.reliability --full ROW   the full form of one row, up to hours

The rows are listed in ``programme``; what several of them need has a module of its own.
"""
