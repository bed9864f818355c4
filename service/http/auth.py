"""Who may: API keys in a file of the operator, and one admin key in another.

Keys never come from the environment itself, where `docker inspect` and crash reports show them.
"""

import codecs
import hashlib
import hmac
import logging
import os
import re
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, Unauthorized
from service.http.telemetry import route_path

_LOG = logging.getLogger("fieldmark.service")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="fieldmark"'}
_GUARDED = ("/classify", "/explain", "/models", "/v2")
_PROBES = ("/v2/health/",)
_ADMIN = ("/admin",)
_COMMENT = re.compile(rb"(^|\s)#.*")


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
    """Pure ASGI middleware that asks for keys; before admission, so that strangers take no place in the queue.

    Args:
        app: what it guards.
        api_keys: of the clients; None lets everybody in.
        admin_key: for `/admin`; None lets nobody in.
    """

    def __init__(self, app: ASGIApp, api_keys: KeyFile | None, admin_key: KeyFile | None) -> None:
        self._app = app
        self._api_keys = api_keys
        self._admin_key = admin_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise.

        Raises:
            Unauthorized: a key is needed, and this is none.
            Forbidden: administration is off, or the key is one of a client.
        """
        if scope["type"] == "http":
            path = route_path(scope)
            if _is_below(path, _ADMIN):
                self._check_admin(scope)
            elif self._api_keys is not None and _is_below(path, _GUARDED) and not path.startswith(_PROBES):
                self._check_client(scope, self._api_keys)
        await self._app(scope, receive, send)

    def _check_client(self, scope: Scope, keys: KeyFile) -> None:
        key = _sent_key(scope)
        if key is None or not keys.knows(key):
            raise Unauthorized(headers=_CHALLENGE)

    def _check_admin(self, scope: Scope) -> None:
        if self._admin_key is None:
            raise Forbidden("Administration is off: this server has no admin key.")
        key = _sent_key(scope)
        if key is not None and self._admin_key.knows(key):
            return
        if key is not None and self._api_keys is not None and self._api_keys.knows(key):
            raise Forbidden("This is the key of a client.")
        raise Unauthorized("The admin key is needed.", headers=_CHALLENGE)


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _sent_key(scope: Scope) -> bytes | None:
    """Return the key of `Authorization: Bearer` or `X-API-Key`."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            sent: bytes = value.strip()
            return sent
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip())
    return None
