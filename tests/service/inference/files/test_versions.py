"""Model files by name and version, without loading them."""

from pathlib import Path

import pytest

from service.inference.files.versions import is_number, scan


def put(folder: Path, *keys: str) -> None:
    """Write files `NAME/VERSION.onnx`."""
    for key in keys:
        path = folder / f"{key}.onnx"
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_what_is_not_a_model_is_ignored(tmp_path: Path) -> None:
    """Unfinished copies, notes and hidden folders are no models."""
    put(tmp_path, "tiny/1", "tiny/draft", "tiny/1.5", ".trash/1", "tiny/-3")
    (tmp_path / "tiny" / "2.onnx.tmp").touch()
    (tmp_path / "tiny" / "3.onnx").mkdir()
    assert ["tiny/1"] == list(scan(tmp_path))


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    """By name, then by version."""
    put(tmp_path, "tiny/100", "kept/10", "tiny/9", "tiny/10", "kept/9")
    assert ["kept/9", "kept/10", "tiny/9", "tiny/10", "tiny/100"] == list(scan(tmp_path))


@pytest.mark.parametrize(("name", "key"), [("exported", "/1"), ("7", "/7"), ("007", "/7")])
def test_a_single_file_has_no_name(tmp_path: Path, name: str, key: str) -> None:
    """Its version is that of its file name, or 1."""
    path = tmp_path / f"{name}.onnx"
    path.touch()
    assert [key] == list(scan(path))
    assert {} == scan(tmp_path / "missing.onnx")


def test_a_signature_changes_with_its_file(tmp_path: Path) -> None:
    """Another content or another file has another signature; a fresh file is not old."""
    put(tmp_path, "tiny/1")
    path, before = scan(tmp_path)["tiny/1"]
    assert not before.is_older_than(3600)
    assert before.is_older_than(-3600)
    path.write_bytes(b"more")
    assert before != scan(tmp_path)["tiny/1"][1]


@pytest.mark.parametrize("text", ["0", "007", "9" * 18])
def test_a_version_is_a_whole_number(text: str) -> None:
    """In ASCII digits, short enough for every use as a number."""
    assert is_number(text)


@pytest.mark.parametrize("text", ["9" * 19, "", "-1", "1.5", "²"])
def test_other_names_are_no_versions(text: str) -> None:
    """Signs, fractions, other digits and endless numbers."""
    assert not is_number(text)
