"""Photos and tables at addresses, as `s3://BUCKET/photos`; by fsspec, which the extra of that name installs.

Source: https://filesystem-spec.readthedocs.io.
"""

import glob
import re
from collections.abc import Iterator
from typing import Any

from service.errors import InvalidOption

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"(?<=://)[^/@]*@")


def is_address(path: str) -> bool:
    """Return whether a path is an address, as of an object store."""
    return _ADDRESS.search(path) is not None


def without_secret(address: str) -> str:
    """Return an address without user and password: it is written into rows and headers."""
    return _SECRET.sub("", address)


def connect(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path there.

    Raises:
        InvalidOption: fsspec or the package for this kind of address is missing.
        OSError: it cannot be reached.
    """
    shown = without_secret(address)
    try:
        import fsspec
    except ImportError as error:
        raise InvalidOption(f"{shown}: addresses need the extra `fsspec`: pip install 'fieldmark[fsspec]'.") from error
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise InvalidOption(f"{shown}: {error}") from error
    return system, path


def walk_address(address: str) -> Iterator[tuple[Any, str, str, bool]]:
    """Yield file system, path, name and whether it was named, of every file below an address, sorted.

    The name is relative to the address where that is a folder, else empty.
    """
    system, path = connect(address)
    if glob.has_magic(path):
        for found in sorted(system.glob(path)):
            yield system, found, found, False
    elif system.isdir(path):
        start = path.rstrip("/") + "/" if path else ""
        for found in sorted(system.find(path)):
            name = found.removeprefix(start).lstrip("/")
            if not any(part.startswith(".") for part in name.split("/")):
                yield system, found, name, False
    else:
        yield system, path, "", True
