"""Which photos a command was given, and under which names."""

from pathlib import Path

import pytest

from service.commands.folder.sources import Sources
from service.errors import InvalidOption
from tests.service.commands.folder.conftest import BAD, GOOD

OTHER = ("note.txt", "pipe")


def names(*paths: str, files_from: str | None = None) -> list[str]:
    """Return the names of all photos."""
    return [photo.name for photo in Sources(paths, files_from).photos()]


def test_a_folder_with_all_that_is_in_it(photos: Path) -> None:
    """Relative to it, sorted, each once: neither hidden files, nor what links lead to a second time, or out of it."""
    assert sorted([*GOOD, *BAD, *OTHER]) == names(str(photos))


def test_several_have_the_names_that_were_given(photos: Path, here: Path) -> None:
    """Base names alone would be ambiguous; a photo that is given twice is one."""
    assert ["photos/a.png", "photos/deep/e.dat", "photos/deep/er/d.jpg"] == names(
        "photos/a.png", "photos/deep", "photos/a.png"
    )


def test_globs_are_taken_where_the_shell_does_not(photos: Path, here: Path) -> None:
    """Sorted; `**` goes through folders, and one without a match is refused."""
    assert ["photos/=1+1.png", "photos/a.png"] == names("photos/[=a]*.png")
    assert ["photos/deep/er/d.jpg"] == names("photos/deep/**/*.jpg")
    with pytest.raises(InvalidOption, match="no file matches"):
        Sources(["photos/*.gif"]).check()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_a_list_of_names(photos: Path, here: Path, end: bytes) -> None:
    """One a line, however lines end, or separated by NUL; folders in it are walked."""
    (here / "list").write_bytes(end.join([b"photos/a.png", b"photos/caf\xe9.png", b"photos/deep"]))
    expected = ["photos/a.png", "photos/caf\\xE9.png", "photos/deep/e.dat", "photos/deep/er/d.jpg"]
    assert expected == names(files_from="list")


def test_a_folder_that_cannot_be_read_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are walked all the same."""
    from service.commands.folder import sources

    def scandir(path: str) -> object:
        if path.endswith("/deep"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    real = sources.os.scandir
    monkeypatch.setattr(sources.os, "scandir", scandir)
    refused: list[str] = []
    found = [photo.name for photo in Sources([str(photos)], refuse=lambda name, _: refused.append(name)).photos()]
    assert ([str(photos / "deep")], "z.png") == (refused, found[-1])
    assert not [name for name in found if name.startswith("deep")]
