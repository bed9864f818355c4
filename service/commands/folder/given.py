"""What a command line says of photos: whether they are many; without the modules that answer many."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

from service.commands.folder.remote import is_address
from service.commands.running import PICTURE_TYPES


@dataclass(frozen=True)
class Given:
    """What the command line says about photos and results.

    Attributes:
        paths: files, folders, globs, addresses.
        files_from: list of further names; `-` is the standard input.
        out: table or folder to write; None prints.
        format: of the table; None goes by its name.
        as_json: print JSON.
        deployment: of Camtrap DP: its ID; this and the following None where not given.
        timezone: of the camera's clock.
        location: latitude and longitude, with a comma between.
    """

    paths: Sequence[str]
    files_from: str | None = None
    out: str | None = None
    format: str | None = None
    as_json: bool = False
    deployment: str | None = None
    timezone: str | None = None
    location: str | None = None

    @property
    def has_many(self) -> bool:
        """Whether this is more than some photos by their names, whose answers are printed in full."""
        return self.files_from is not None or any(
            os.path.isdir(path) or _is_glob(path) or _is_store(path) for path in self.paths
        )

    @property
    def is_one_picture(self) -> bool:
        """Whether one photo is explained in one picture, by the name of it."""
        suffix = os.path.splitext(str(self.out))[1].lower()
        into_folder = suffix not in PICTURE_TYPES and (not suffix or os.path.isdir(str(self.out)))
        return len(self.paths) == 1 and not self.has_many and not into_folder


def _is_glob(path: str) -> bool:
    return glob.has_magic(path) and not os.path.lexists(path) and not is_address(path)


def _is_store(path: str) -> bool:
    return is_address(path) and not path.startswith(("http://", "https://"))
