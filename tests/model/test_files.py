"""The one writer of files: whole or not at all."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from model.files import WriteError, check_folder, check_target, locked, replacing, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Bytes and text replace the old file, and no other file is left."""
    path = tmp_path / "kept.txt"
    for content in (b"one", memoryview(b"two"), "drei Vögel"):
        write_whole(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_end_the_old_file_stands(tmp_path: Path) -> None:
    """A partial file is hidden, and is not named like the finished one."""
    path = tmp_path / "1.onnx"
    write_whole(path, b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (partial,) = [other for other in tmp_path.iterdir() if other != path]
        assert partial.name.startswith(".")
        assert partial.suffix != ".onnx"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_in_between_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    """The error is raised unchanged, the old file is untouched, the new one is removed."""
    path = tmp_path / "kept.txt"
    write_whole(path, b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The message names the file and says that the old one is untouched."""
    path = tmp_path / "nowhere" / "kept.txt"
    with pytest.raises(WriteError, match=r"nowhere/kept.txt could not be written .* is untouched"):
        write_whole(path, b"new")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The write fails with a message, and no partial file is left."""
    path = tmp_path / "kept.bin"
    write_whole(path, b"old")
    program = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        from model.files import WriteError, write_whole
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_whole(Path(sys.argv[1]), bytes(100_000))
        except WriteError as error:
            print(error)
        """)
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "untouched" in done.stdout
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    """Each writes its own temporary file; the last one to finish remains."""
    path = tmp_path / "kept.txt"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("target", ["file/x.onnx", "folder", "file/a/b/x.onnx", "n" * 300 + "/x", "dangling/x"])
def test_targets_are_checked_before_the_work(tmp_path: Path, target: str) -> None:
    """A file where a folder must be, a folder where a file must be, a name that no folder can have."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WriteError, match="could not be written"):
        check_target(tmp_path / target)
    check_target(tmp_path / "file")
    check_target(tmp_path / "new" / "folders" / "x.onnx")
    check_folder(tmp_path / "new" / "run")
    check_folder(tmp_path / "folder")
    with pytest.raises(WriteError, match="is a file, not a folder"):
        check_folder(tmp_path / "file")
    assert ["dangling", "file", "folder"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["/proc/nothing", "/dev/full/x"])
def test_what_takes_no_file_is_found_before_the_work(folder: str) -> None:
    """A file system that cannot be written to is reported."""
    with pytest.raises(WriteError):
        check_folder(Path(folder))


def test_a_folder_or_a_file_is_held_by_one(tmp_path: Path) -> None:
    """A second hold is refused until the first ends; a file is made for it."""
    for path in (tmp_path, tmp_path / "table.json"):
        with locked(path), pytest.raises(BlockingIOError), locked(path):
            pass
        with locked(path):
            assert path.exists()
