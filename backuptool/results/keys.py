"""The passwords of an encrypted repository, as far as they can be told."""

from __future__ import annotations

import datetime
from typing import Any, Tuple

import attrs

from .presentation import Result, Sequenced, count, local_time

__all__ = ["KeyList", "RepositoryKey"]


@attrs.frozen(kw_only=True, repr=False)
class RepositoryKey(Result):
    """One password or key file that opens an encrypted repository. What it is, nobody can tell from the repository.

    Attributes:
        id: Names it, 8 hex digits.
        label: What it was called when it was added.
        created_ns: When it was added, ns since 1970 UTC.
        in_use: True if it is the one with which the repository was opened.
    """

    id: str
    label: str
    created_ns: int
    in_use: bool

    @property
    def created(self) -> datetime.datetime:
        """When it was added, in local time, with the UTC offset."""
        return local_time(self.created_ns)

    def _derived(self) -> dict[str, Any]:
        return {"created": self.created.isoformat(timespec="seconds")}

    def _headline(self) -> str:
        return f"{self.id}: {self.label}" + (" (in use)" if self.in_use else "")


@attrs.frozen(kw_only=True, repr=False)
class KeyList(Sequenced[RepositoryKey], Result):
    """The passwords and key files that open an encrypted repository.

    Iterating and indexing give them in the order in which they were added.

    Attributes:
        keys: All of them.
        added: The id of the one that was just added, "" if none was.
        removed: The id of the one that was just removed, "" if none was.
    """

    keys: tuple[RepositoryKey, ...]
    added: str = ""
    removed: str = ""

    def _items(self) -> Tuple[RepositoryKey, ...]:
        return self.keys

    def _headline(self) -> str:
        changes = [f"added {self.added}"] * bool(self.added) + [f"removed {self.removed}"] * bool(self.removed)
        return ", ".join([*changes, count(len(self.keys), "password")])
