"""What was decided when a repository was created.

Owns how the rows of ``settings`` are read.
"""

from __future__ import annotations

from ..errors import CorruptionError
from .chunking import Chunking
from .database import Database

__all__ = ["chunking_of"]


def chunking_of(database: Database) -> Chunking:
    """Return how large files are cut.

    Raises:
        CorruptionError: The settings are damaged.
    """
    settings = database.query("SELECT name, value FROM settings")
    try:
        return Chunking.from_settings(
            {name.decode(): value.decode() if isinstance(value, bytes) else value for name, value in settings}
        )
    except (AttributeError, ValueError) as exc:
        raise CorruptionError(
            f"the settings of {database.path} are damaged; run check to see what else is hit", database.path
        ) from exc
