"""Protecting: the proof that restoring works, and the passwords."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Optional, Union

from ..progress import Reporter

if TYPE_CHECKING:
    from ..results.drill import DrillResult
    from ..results.keys import KeyList

from ..parameters import BytesPath, Password, Progress, SnapshotReference, reference_of
from .opened import Opened

__all__ = ["Protecting"]


class Protecting(Opened):
    """What makes sure that nothing is lost, and nothing seen by others."""

    def drill(
        self,
        snapshot: SnapshotReference = "latest",
        *,
        sample: Union[int, float, None] = None,
        scratch: Optional[BytesPath] = None,
        seed: Optional[int] = None,
        progress: Progress = None,
    ) -> DrillResult:
        """Prove that a snapshot can be restored: restore it for trial, compare everything, and record the outcome.

        Files are restored into a new directory, read back, and compared with the stored hashes and with all that is
        saved of them: kind, owner, mode, time, target, extended attributes, hard links. The directory is removed at the
        end. What the place cannot hold, such as owners where it is not root who restores, is a problem in the result
        and not held against the snapshot.

        Args:
            snapshot: A snapshot's number, or ``"latest"``.
            sample: How many files, drawn at random: a number (int), or a share of them (float, up to 1.0). By default
                all. Files are all entries that are not directories.
            scratch: A directory in which the other is made; by default the system's place for temporary files. It needs
                room for what is restored.
            seed: What the sample is drawn with; by default another one each time, which the result tells.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.
            ValueError: ``sample`` is neither a number nor a share.
            RestoreError: The scratch directory cannot be made, written to, or removed.
            RepositoryNotFoundError, NotARepositoryError, CorruptionError: The repository cannot be read.

        Cost: that of a restore of the files, and of reading them once; finding a sample reads the snapshot's catalog.
        """
        from ..operations.drill import DrillOptions, drill

        options = DrillOptions(
            sample=sample,
            scratch=None if scratch is None else os.path.expanduser(os.fsencode(scratch)),
            seed=seed,
            most_helpers=self._max_helpers,
        )
        with Reporter(progress) as reporter:
            return drill(self._pool, reference_of(snapshot), options, reporter, clock=time.time_ns)

    def keys(self) -> KeyList:
        """Return the passwords and key files that open an encrypted repository, in the order they were added.

        Raises:
            RepositoryError: It is not encrypted.
        """
        from ..operations.keys import list_keys

        return list_keys(self._pool)

    def add_key(self, password: Password, *, label: str = "") -> KeyList:
        """Let another password, or the bytes of a key file, open an encrypted repository as well.

        Nothing is encrypted anew, so it takes no longer for a large repository. To change a password, add the new one
        and remove the old one.

        Args:
            password: The new password, as for the repository itself.
            label: What to call it, in clear: at most 63 bytes.

        Raises:
            RepositoryError: It is not encrypted, that password opens it already, or 64 do.
            ValueError: The label is too long or not printable.
        """
        from ..operations.keys import add_key
        from ..storage.encryption.keyring import Keyring

        new = Keyring(password)
        del password  # some programs log the variables of every frame
        return add_key(self._pool, new, label, clock=time.time_ns)

    def remove_key(self, key: str) -> KeyList:
        """Let a password open an encrypted repository no longer.

        Who has the password and a copy of the file from before can read that copy, and with its key all that is stored
        later.

        Args:
            key: The id that :meth:`keys` gives, or the beginning of it.

        Raises:
            RepositoryError: There is no such key, or it is the last one.
        """
        from ..operations.keys import remove_key

        return remove_key(self._pool, key)
