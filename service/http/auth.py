"""Who may: API keys in a file of the operator, and one admin key in another.

Keys never come from the environment itself, where `docker inspect` and crash reports show them.
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

_LOG = logging.getLogger("fieldmark.service")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="fieldmark"'}
_COMMENT = re.compile(rb"(^|\s)#.*")


Headers = Iterable[tuple[bytes, bytes]]


class NoKey(ValueError):
    """A key file without a key, or none that can be read."""


class KeyFile:
    """The keys of a file: one a line; `#` starts a comment, but not within a word. Read again when it has changed.

    Only digests are kept. A file that vanishes or cannot be read closes the door rather than opening it.

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
        """Return whether this is one of the keys, in a time that tells nothing about them."""
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
                _LOG.error("the key file cannot be read any more: nobody is let in")
            self._seen, self._digests = None, ()
            return
        keys = {_COMMENT.sub(b"", line).strip() for line in lines} - {b""}
        self._seen, self._digests = seen, tuple(hashlib.sha256(key).digest() for key in sorted(keys))


class Keys:
    """Asks for keys; before admission, so that strangers take no place in the queue.

    Args:
        settings: where the files of keys are.

    Attributes:
        asked: whose keys are asked for at all.

    Raises:
        NoKey: a key file is set and cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._api_keys = KeyFile(settings.api_keys_file) if settings.api_keys_file is not None else None
        self._admin_key = KeyFile(settings.admin_key_file) if settings.admin_key_file is not None else None
        self.asked: frozenset[Key] = frozenset(("admin",) if self._api_keys is None else ("client", "admin"))

    def check(self, wanted: Key, headers: Headers) -> None:
        """Return where a request brings the key that its address asks for.

        Args:
            wanted: whose key, one of `asked`.
            headers: of the request.

        Raises:
            Unauthorized: a key is needed, and this is none.
            Forbidden: administration is off, or the key is one of a client.
        """
        key = _sent_key(headers)
        if wanted == "admin":
            self._check_admin(key)
        elif key is None or self._api_keys is None or not self._api_keys.knows(key):
            raise Unauthorized(headers=_CHALLENGE)

    def _check_admin(self, key: bytes | None) -> None:
        if self._admin_key is None:
            raise Forbidden("Administration is off: this server has no admin key.")
        if key is not None and self._admin_key.knows(key):
            return
        if key is not None and self._api_keys is not None and self._api_keys.knows(key):
            raise Forbidden("This is the key of a client.")
        raise Unauthorized("The admin key is needed.", headers=_CHALLENGE)


def _sent_key(headers: Headers) -> bytes | None:
    """Return the key of `Authorization: Bearer` or `X-API-Key`."""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return None
