"""What writing a snapshot as a tar stream did."""

from __future__ import annotations

from typing import Literal

import attrs

from .presentation import Result, count, format_size
from .problem import Problem, problem_tail
from .snapshot import Snapshot

__all__ = ["ExportResult", "TarCompression"]

#: How a tar stream is compressed.
TarCompression = Literal["none", "gzip", "zstd"]


@attrs.frozen(kw_only=True, repr=False)
class ExportResult(Result):
    """What exporting did. "Files" are all entries that are not directories.

    Attributes:
        snapshot: The snapshot that was exported.
        destination: Absolute path of the file written, or "" for a stream.
        compression: How the stream is compressed.
        exported_files: Files in the stream.
        exported_directories: Directories in the stream.
        content_bytes: Bytes of contents in the stream; holes and further hard links of a file are none.
        tar_bytes: Bytes of the stream before compression.
        written_bytes: Bytes written.
        elapsed_seconds: Wall time.
        unmatched: What ``include`` has that nothing in the snapshot matches, where something else in it does.
        problems: What is not in the stream.
    """

    snapshot: Snapshot
    destination: str
    compression: TarCompression
    exported_files: int
    exported_directories: int
    content_bytes: int
    tar_bytes: int
    written_bytes: int
    elapsed_seconds: float
    unmatched: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def _headline(self) -> str:
        place = self.destination or "a stream"
        text = (
            f"{self.snapshot.id} to {place}: {count(self.exported_files, 'file')}, {format_size(self.content_bytes)}, "
            f"{format_size(self.written_bytes)} written"
        )
        return text + problem_tail(0, self.problems)
