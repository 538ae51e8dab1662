"""``python -m backuptool``: the same as the ``backuptool`` command."""

import sys

from backuptool.cli import main

if __name__ == "__main__":
    sys.exit(main())
