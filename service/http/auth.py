"""Access by key: API keys in a file of the operator, and an admin key in another.

Keys are never read from the environment itself, where `docker inspect` and crash reports show them.
"""

import codecs
import hashlib
import hmac
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from service.errors import Forbidden, Unauthorized
from service.http.addresses import Key
from service.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]

_LOG = logging.getLogger("fieldmark.service")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="fieldmark"'}
_COMMENT = re.compile(rb"(^|\s)#.*")


class NoKey(ValueError):
    """A key file that holds no key or cannot be read."""


class KeyFile:
    """The keys of a file: one a line; `#` starts a comment, but not within a word. Read again when it has changed.

    Only digests are kept. A file that vanishes or cannot be read refuses every key.

    Args:
        path: of the file.

    Raises:
        NoKey: the file cannot be read or holds no key; raised here so that a start with a typo fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._digests: tuple[bytes, ...] = ()
        self._refresh()
        if not self._digests:
            raise NoKey(f"no key can be read from {path}")

    def knows(self, key: bytes) -> bool:
        """Return whether this is one of the keys, in a time that does not depend on them."""
        self._refresh()
        digest = hashlib.sha256(key).digest()
        known = False
        for one in self._digests:
            known |= hmac.compare_digest(one, digest)
        return known

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            lines = self._path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
        except OSError:
            if self._digests:
                _LOG.error("the key file cannot be read any more: every key is refused")
            self._seen, self._digests = None, ()
            return
        keys = {_COMMENT.sub(b"", line).strip() for line in lines} - {b""}
        self._seen, self._digests = seen, tuple(hashlib.sha256(key).digest() for key in sorted(keys))


class ApiKeys:
    """The keys of a service; checked before admission, so that requests without one take no place in the queue.

    Args:
        settings: where the files of keys are.

    Attributes:
        needed: the kinds of keys that this service checks.

    Raises:
        NoKey: a key file is set and cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._client_keys = KeyFile(settings.api_keys_file) if settings.api_keys_file is not None else None
        self._admin_key = KeyFile(settings.admin_key_file) if settings.admin_key_file is not None else None
        self.needed: frozenset[Key] = frozenset(("admin",) if self._client_keys is None else ("client", "admin"))

    def check(self, needed: Key, headers: Headers) -> None:
        """Raise unless a request brings the key that its address needs.

        Raises:
            Unauthorized: a key is needed, and this is none.
            Forbidden: administration is off, or the key is one of a client.
        """
        key = _sent_key(headers)
        if needed == "admin":
            self._check_admin(key)
        elif self._client_keys is not None and not self._client_keys.knows(key):
            raise Unauthorized(headers=_CHALLENGE)

    def _check_admin(self, key: bytes) -> None:
        if self._admin_key is None:
            raise Forbidden("Administration is off: this server has no admin key.")
        if self._admin_key.knows(key):
            return
        if self._client_keys is not None and self._client_keys.knows(key):
            raise Forbidden("This is the key of a client.")
        raise Unauthorized("The admin key is needed.", headers=_CHALLENGE)


def _sent_key(headers: Headers) -> bytes:
    """Return the key of `Authorization: Bearer` or `X-API-Key`; empty, which no key is, where there is none."""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return b""
