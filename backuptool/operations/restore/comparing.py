"""Comparing a destination with its snapshot: what is extra in it is deleted, what is in it is read back.

Owns both passes over the destination. Which paths are meant is decided by the selection.
"""

from __future__ import annotations

import errno
import os

from ...errors import SourceError, UnsafePathError
from ...progress import Reporter
from ...storage.database import Database
from ...storage.files import files_of
from ...storage.snapshots import SnapshotRow
from ...tree.confined import require_safe
from ...tree.exclusions import Exclusions
from ...tree.rehearsal import Place
from ...tree.source import Source
from ..findings import Findings
from ..selecting import Selection

__all__ = ["Comparison"]


class Comparison:
    """Passes over a destination behind a restore.

    Args:
        database: The repository; it may lie in the destination, and is never deleted.
        snapshot: What was restored.
        selection: What of it.
        destination: Where to.
        findings: Where problems go.
        reporter: Who is told how far it is.
    """

    def __init__(
        self,
        database: Database,
        snapshot: SnapshotRow,
        selection: Selection,
        destination: Place,
        findings: Findings,
        reporter: Reporter,
    ) -> None:
        self._database = database
        self._snapshot = snapshot
        self._selection = selection
        self._destination = destination
        self._findings = findings
        self._reporter = reporter

    def delete_extra(self) -> int:
        """Remove what the snapshot does not have; what is in a directory goes before the directory.

        Returns:
            Entries that were removed, or would be.
        """
        try:
            source = Source(self._destination.root)
        except SourceError as exc:
            reason = exc.__cause__ if isinstance(exc.__cause__, OSError) else OSError(errno.ENOENT, str(exc))
            self._unlisted(b"", reason)
            return 0
        try:
            walk = source.walk(
                Exclusions(), self._unlisted, self._database.identities(), self._database.journal_names()
            )
            known = (file.version.path for file in files_of(self._database, self._snapshot))
            extra = self._selection.extra(walk, known)
        finally:
            source.close()
        deleted = 0
        for path in reversed(extra):
            self._reporter.report("delete", done_files=deleted, total_files=len(extra), path=path)
            try:
                deleted += self._destination.remove(path)
            except OSError as exc:
                self._findings.problem("not-removed", path, f"not removed: {exc.strerror}")
        return deleted

    def _unlisted(self, path: bytes, exc: OSError) -> None:
        self._findings.problem("unreadable", path, f"cannot be listed: {exc.strerror}")

    def verify(self) -> int:
        """Read the restored files back and compare them with their hashes.

        Returns:
            Files that are as saved.
        """
        failed = self._findings.paths()
        verified = 0
        for file in files_of(self._database, self._snapshot, on_gap=lambda gap: None):  # the restore has told of them
            version = file.version
            shown = os.fsdecode(version.path)
            if version.kind != b"f" or version not in self._selection or shown in failed:
                continue
            self._reporter.report("verify", done_files=verified, total_files=self._snapshot.files, path=version.path)
            try:
                require_safe(version.path)
                if self._destination.hash_file(version.path) != version.hash:
                    self._findings.problem("verify-mismatch", version.path, "is not as saved in the destination")
                    continue
            except UnsafePathError:
                continue
            except OSError as exc:
                kind = "unreadable" if exc.errno in (errno.EACCES, errno.EPERM) else "verify-mismatch"
                self._findings.problem(kind, version.path, f"cannot be read back: {exc.strerror or exc}")
                continue
            verified += 1
        return verified
