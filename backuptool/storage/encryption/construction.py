"""The keys of an encrypted repository: how they come from passwords and from each other.

Owns the parameters, which are pinned to the version of the construction and stored nowhere, and the secret's keeping
out of texts. Where wrapped keys lie is keypages' business. docs/encryption.md describes it all.

The primitives are those of ``cryptography``: Argon2id (RFC 9106), ChaCha20-Poly1305 (RFC 8439), HKDF (RFC 5869) and
HMAC-SHA-256.
"""

from __future__ import annotations

import hmac
import os
import threading
from typing import TYPE_CHECKING, NoReturn, Optional

from ...errors import RepositoryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

__all__ = ["ID_BYTES", "NONCE_BYTES", "SALT_BYTES", "VERSION", "WRAPPED_BYTES", "FileKey", "Stretched", "unavailable"]

#: Of the construction: another choice of primitives or parameters is another version.
VERSION = 1

#: Argon2id: passes, KiB of memory, lanes. 64 MiB, t=3, p=4 is the second recommendation of RFC 9106. 0.25 to 0.45 s
#: on a busy machine with two processors.
_PASSES, _MEMORY_KIB, _LANES = 3, 65536, 4

SALT_BYTES = 16
ID_BYTES = 16
NONCE_BYTES = 12
_KEY_BYTES = 32
WRAPPED_BYTES = _KEY_BYTES + 16  # and the tag

#: OpenSSL computes the lanes with threads of its own, of which a process has one set. Two runs at a time wait for each
#: other for ever, or end with an error that says that there is no memory: tried with OpenSSL 4.0 and cryptography 50.
_one_at_a_time = threading.Lock()

# A child that is forked while one runs would find its threads, or the module that is being imported for it, busy for
# ever: the fork waits for it.
os.register_at_fork(
    before=_one_at_a_time.acquire, after_in_child=_one_at_a_time.release, after_in_parent=_one_at_a_time.release
)

_LABEL = b"backuptool %d " % VERSION


class FileKey:
    """The random key of one repository, from which the others come. No text and no pickle of it says what it is."""

    __slots__ = ("_secret",)

    def __init__(self, secret: Optional[bytes] = None) -> None:
        self._secret = os.urandom(_KEY_BYTES) if secret is None else secret

    def pages(self) -> bytes:
        """Return the key that SQLite's pages are encrypted with, 32 bytes."""
        return _expand(self._secret, b"pages")

    def proves(self, what: bytes, message: bytes, proof: bytes) -> bool:
        """Tell whether a proof is the one of a message."""
        return hmac.compare_digest(self.proof(what, message), proof)

    def proof(self, what: bytes, message: bytes) -> bytes:
        """Return what only holders of this key can compute of a message: 32 bytes.

        Args:
            what: What kind of message this is; each kind has a key of its own.
            message: Any bytes.
        """
        return hmac.digest(_expand(self._secret, what), message, "sha256")

    def reveal(self) -> bytes:
        """Return the key itself, for the pipe to a helper."""
        return self._secret

    def __repr__(self) -> str:
        return "FileKey()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


class Stretched:
    """What Argon2id makes of a password, with which keys are wrapped.

    Args:
        password: The password's bytes.
        salt: Of the repository, 16 bytes. It is one for all its passwords, so that opening costs one run of Argon2id
            however many there are.
    """

    __slots__ = ("_secret",)

    def __init__(self, password: bytes, salt: bytes) -> None:
        with _one_at_a_time:
            try:
                from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
            except ImportError as exc:
                raise unavailable("") from exc
            parameters = Argon2id(
                salt=salt, length=_KEY_BYTES, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB
            )
            self._secret = parameters.derive(password)

    def wrap(self, key: FileKey, id_: bytes, nonce: bytes, context: bytes) -> bytes:
        """Return the key of a repository so that only this password opens it.

        Args:
            key: That key.
            id_: Of the place it goes to, 16 random bytes, never used twice.
            nonce: 12 random bytes.
            context: Bytes that are not secret and must not be changed.
        """
        return self._cipher(id_).encrypt(nonce, key.reveal(), context)

    def unwrap(self, wrapped: bytes, id_: bytes, nonce: bytes, context: bytes) -> Optional[FileKey]:
        """Return the key that was wrapped, or None if it was not with this password."""
        from cryptography.exceptions import InvalidTag

        try:
            return FileKey(self._cipher(id_).decrypt(nonce, wrapped, context))
        except InvalidTag:
            return None

    def _cipher(self, id_: bytes) -> ChaCha20Poly1305:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        return ChaCha20Poly1305(_expand(self._secret, b"wrapping " + id_))

    def __repr__(self) -> str:
        return "Stretched()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


def unavailable(path: str) -> RepositoryError:
    """Return the error for what encryption needs and this Python has not."""
    return RepositoryError(
        "encrypted repositories need Python 3.9 or newer and two more libraries; "
        "install them with: pip install 'apsw-sqlite3mc>=3.51' 'cryptography>=44'",
        path,
    )


def _expand(secret: bytes, what: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    return HKDFExpand(SHA256(), _KEY_BYTES, _LABEL + what).derive(secret)
