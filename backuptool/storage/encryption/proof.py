"""What the cipher of an encrypted file does not prove: bytes in clear, copies of the key page, that all is of one time.

Owns what ``check`` says of them. Every other byte belongs to a page whose tag fails if one bit of it is another, and
what a page that was put back brings into disorder is found as it is in any repository, or here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable, Sequence

from ..drivers.with_sqlite3mc import read_pages
from ..recognition import ENCRYPTED_MAGIC
from ..schema import PAGE_SIZE
from .construction import FileKey
from .keypages import KEY_PAGES, is_proven, readable
from .seal import Sealer

if TYPE_CHECKING:
    from ..database import Database

__all__ = ["prove"]

#: Called with the kind of a problem and its message.
Problem = Callable[[str, str], object]

#: What the first page has in clear: the magic, and of SQLite's header the size of a page, versions 1 and 1, 64 bytes of
#: each page for nonce and tag, and three fractions that are always the same.
_CLEAR = ENCRYPTED_MAGIC + PAGE_SIZE.to_bytes(2, "big") + bytes((1, 1, 64, 64, 32, 32))


def prove(database: Database, key: FileKey, problem: Problem) -> None:
    """Call problem with the kind and the message of each thing that is not as it must be."""
    path = database.path
    with database.read_transaction():
        if not Sealer(key).is_whole(database):
            problem(
                "page-replaced",
                "parts of the catalog are older than others: pages were put back or replaced; restore the repository "
                "from a copy",
            )
        expected, size = database.file_bytes(), os.stat(path).st_size
        least = database.value("SELECT value FROM settings WHERE name = 'key_page'")
    # Whole pages behind the end are what a power failure leaves right behind a commit that gives pages back: nothing
    # reads them, and the next commit takes them away.
    if size < expected or size % database.page_size():
        problem("database-corrupt", f"the file has {size:,} bytes, and its pages take {expected:,}")
    head, *pages = read_pages(path, [1, *KEY_PAGES])
    if head[: len(_CLEAR)] != _CLEAR:
        problem("database-corrupt", "the first bytes of the file, which are not encrypted, are damaged")
    _prove_key_pages(pages, key, least, problem)


def _prove_key_pages(pages: Sequence[bytes], key: FileKey, least: object, problem: Problem) -> None:
    proven = [page for page, data in readable(pages) if is_proven(data, key)]
    if len(proven) < len(pages):
        problem(
            "key-page-damaged",
            f"{len(pages) - len(proven)} of the {len(pages)} copies of the key page is damaged; adding or removing a "
            "password writes both anew",
        )
    elif pages[0] != pages[1] or not isinstance(least, int) or proven[0].sequence < least:
        problem(
            "key-page-replaced",
            "a copy of the key page is older than the last change of a password, so one that was removed may open the "
            "repository; adding or removing a password writes both anew",
        )
