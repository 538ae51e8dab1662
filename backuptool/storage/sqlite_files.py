"""What SQLite's files look like from outside: a database, and what lies beside it.

Owns what can be told from names, sizes and first bytes, see https://www.sqlite.org/fileformat.html. Nothing is opened
here, and SQLite is not needed for it.
"""

from __future__ import annotations

__all__ = ["COMPANIONS", "HEADER_BYTES", "INDEX", "LOG", "MAGIC", "declared_bytes", "has_log_format", "is_companion"]

#: What every database begins with, and how long its header is.
MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100

#: What is appended to the name of a database for its write-ahead log, and for the index of that.
LOG, INDEX = b"-wal", b"-shm"

#: The same for all files that SQLite keeps beside a database; the last one is the rollback journal.
COMPANIONS = (LOG, INDEX, b"-journal")

#: Where in the header the versions for writing and reading are, and what they are if the database has a log.
_VERSIONS = slice(18, 20)
_LOG_VERSION = 2

#: What a log and a journal begin with; a journal that is done with begins with zeros.
_LOG_MAGICS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_JOURNAL_MAGICS = (bytes.fromhex("d9d505f920a163d7"), bytes(8))

#: Bytes of a piece of a log's index, and of one that was cut because nobody used it any more.
_INDEX_PIECE = 32 << 10
_INDEX_CUT = 3


def declared_bytes(header: bytes) -> int:
    """Return how long a database is by its header, 0 if that does not say so."""
    page_size = int.from_bytes(header[16:18], "big")
    if not header.startswith(MAGIC) or header[24:28] != header[92:96]:  # not written by a SQLite that counts its pages
        return 0
    return (65536 if page_size == 1 else page_size) * int.from_bytes(header[28:32], "big")


def has_log_format(header: bytes) -> bool:
    """Tell whether a header is that of a database with a write-ahead log."""
    return _LOG_VERSION in header[_VERSIONS]


def is_companion(suffix: bytes, size: int, header: bytes) -> bool:
    """Tell whether a file beside a database can be what SQLite keeps there.

    Args:
        suffix: One of ``COMPANIONS``: what its name has behind the database's.
        size: Its bytes.
        header: The first bytes of a log or a journal; of an index they are not needed.
    """
    if suffix == INDEX:
        return size % _INDEX_PIECE in (0, _INDEX_CUT)
    return size == 0 or header.startswith(_LOG_MAGICS if suffix == LOG else _JOURNAL_MAGICS)
