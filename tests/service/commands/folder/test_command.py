"""`fieldmark classify PATH… --out TABLE`: every photo has one row, whatever happens to the command."""

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.cli import main
from service.commands.folder.table.lines import GrowingTable
from tests.service.commands.folder.conftest import BAD, GOOD

FORMATS = ("csv", "jsonl", "parquet")


def paths_in(table: Path) -> list[str]:
    """Return the paths of a table's rows, read as its users read them."""
    if table.suffix == ".parquet":
        return list(pq.read_table(table)["path"].to_pylist())
    text = table.read_text(encoding="utf-8")
    if table.suffix == ".jsonl":
        return [json.loads(line)["path"] for line in text.splitlines()]
    return [row["path"] for row in csv.DictReader(text.splitlines())]


def command(*arguments: str | Path) -> list[str]:
    """Return a command line of its own process."""
    return [sys.executable, "-m", "service.cli", "classify", *map(str, arguments)]


@pytest.mark.parametrize("format_", FORMATS)
def test_every_photo_has_a_row(
    photos: Path, model: str, here: Path, format_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good and bad ones, in the order of their names; the other files are counted, the exit code says what was bad."""
    out = here / f"birds.{format_}"
    arguments = ["classify", "photos", "--model", model, "--out", str(out), "--top-k", "1"]
    assert main(arguments) == 1
    assert f"{out}: 11 photos, 4 of them bad, 2 other files\n" == capsys.readouterr().out
    names = sorted([*GOOD, *BAD])
    assert ["'=1+1.png" if format_ == "csv" and name[0] == "=" else name for name in names] == paths_in(out)
    header = json.loads((here / f"birds.{format_}.json").read_text())
    assert ({"top_k": 1, "among": []}, str(photos)) == (header["options"], header["root"])
    assert len(header["model"]["sha256"]) == 64
    before = out.read_bytes()
    assert main([*arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (11, 4, True) == (found["photos"], found["bad"], found["complete"])
    assert before == out.read_bytes()
    assert sorted(["birds." + format_, f"birds.{format_}.json", "photos"]) == sorted(os.listdir(here))


def test_the_rows(photos: Path, model: str, here: Path) -> None:
    """The service's members in JSON, columns in CSV and Parquet, a code for a bad photo."""
    for format_ in FORMATS:
        main(["classify", "photos", "--model", model, "--out", f"birds.{format_}", "--top-k", "1"])
    nested = {row["path"]: row for row in map(json.loads, Path("birds.jsonl").read_text().splitlines())}
    assert {"path", "predictions", "width", "height"} == nested["a.png"].keys()
    assert ("Red bird", 40) == (nested["a.png"]["predictions"][0]["label"], nested["a.png"]["width"])
    codes = {name: nested[name]["code"] for name in BAD}
    assert ["undecodable_image", "empty_input", "malformed_request", "malformed_request"] == list(codes.values())
    flat = {row["path"].removeprefix("'"): row for row in csv.DictReader(Path("birds.csv").read_text().splitlines())}
    columns = pq.read_table("birds.parquet").to_pylist()
    for row in columns:
        path = row["path"]
        assert {name: "" if value is None else str(value) for name, value in row.items() if name != "path"} == {
            name: value for name, value in flat[path].items() if name != "path"
        }
        assert flat[path]["code"] == nested[path].get("code", "")


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_kills_lose_nothing(many: Path, model: str, here: Path, format_: str) -> None:
    """SIGKILL at seven random moments: the same command then gives the table of a run without any, byte for byte.

    A moment is a number of bytes of the table and its parts, so that the kills fall into the work.
    """
    whole, out = here / f"whole.{format_}", here / f"killed.{format_}"
    assert main(["classify", str(many), "--model", model, "--out", str(whole)]) == 0
    assert sorted(f"{i % 3}/{i:03}.png" for i in range(300)) == paths_in(whole)
    chance, killed = random.Random(format_), 0  # noqa: S311 - moments, no secrets
    script = (
        "import os, signal, sys\n"
        "from service.commands.folder import job\n"
        "from service.commands.folder.table import parts\n"
        "parts._ROWS, after = 20, int(sys.argv.pop(1))\n"
        "import threading, time\n"
        "add, rows = job.Job._write, 0\n"
        "def write(self, task):\n"
        "    global rows\n"
        "    rows += 1\n"
        "    if rows == after: threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        "    add(self, task)\n"
        "job.Job._write = write\n"
        "from service.cli import main\n"
        "sys.exit(main())\n"
    )
    arguments = ["classify", str(many), "--model", model, "--out", str(out)]
    for _ in range(7):
        moment = str(chance.randrange(1, 90))
        done = subprocess.run([sys.executable, "-c", script, moment, *arguments], capture_output=True)
        killed += done.returncode == -signal.SIGKILL
    assert killed >= 3
    assert main(arguments) == 0
    assert paths_in(whole) == paths_in(out)
    if format_ == "parquet":
        assert pq.read_table(whole).equals(pq.read_table(out))
    else:
        assert whole.read_bytes() == out.read_bytes()
    assert not (here / f"killed.{format_}.parts").exists()


def test_a_torn_row_is_done_again(many: Path, model: str, here: Path) -> None:
    """A row without its end is none; the table is cut there and goes on."""
    for format_ in ("csv", "jsonl"):
        out = here / f"birds.{format_}"
        arguments = ["classify", str(many), "--model", model, "--out", str(out)]
        assert main(arguments) == 0
        whole = out.read_bytes()
        for end in (len(whole) - 5, len(whole) // 2, 3):
            out.write_bytes(whole[:end])
            assert main(arguments) == 0
            assert whole == out.read_bytes()


@pytest.mark.parametrize("format_", FORMATS)
def test_ctrl_c_keeps_what_is_done(many: Path, model: str, here: Path, format_: str) -> None:
    """The photos in hand are finished and counted, the exit code is the shell's for an interrupt, and it goes on."""
    script = (
        "import os, signal, sys\n"
        "from service.commands.folder import job\n"
        "write, rows = job.Job._write, 0\n"
        "def interrupt(self, task):\n"
        "    global rows\n"
        "    rows += 1\n"
        "    if rows == 50: os.kill(os.getpid(), signal.SIGINT)\n"
        "    write(self, task)\n"
        "job.Job._write = interrupt\n"
        "from service.cli import main\n"
        "sys.exit(main())\n"
    )
    arguments = ["classify", str(many), "--model", model, "--out", f"birds.{format_}", "--json"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert (130, "") == (done.returncode, done.stderr)
    found = json.loads(done.stdout)
    assert (False, True) == (found["complete"], 50 <= found["photos"] < 300)
    assert main(arguments) == 0
    assert sorted(f"{i % 3}/{i:03}.png" for i in range(300)) == paths_in(Path(f"birds.{format_}"))


@pytest.mark.parametrize("format_", FORMATS)
def test_another_runs_table_is_refused(
    many: Path, model: str, marked_model: str, here: Path, format_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other options, another model, another folder, another program's file: one line with the difference, unchanged."""
    out = f"birds.{format_}"
    assert main(["classify", str(many), "--model", model, "--out", out]) == 0
    before = Path(out).read_bytes()
    (here / f"else.{format_}").write_text("mine")
    capsys.readouterr()
    for arguments, said in (
        ([str(many), "--model", model, "--out", out, "--top-k", "2"], "options.top_k 5 there, 2 here"),
        ([str(many), "--model", marked_model, "--out", out], "model.sha256"),
        ([str(many / "0"), "--model", model, "--out", out], f"root {many} there, {many}/0 here"),
        ([str(many), "--model", model, "--out", f"else.{format_}"], "is there already, and not of this command"),
    ):
        assert main(["classify", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert (before, "mine") == (Path(out).read_bytes(), Path(f"else.{format_}").read_text())


def test_what_is_refused_before_the_work(
    photos: Path, model: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, and nothing is written."""
    (here / "none").mkdir()
    (here / "none" / "note.txt").write_text("no photo")
    for arguments, code, said in (
        (["photos", "--out", "birds.xls"], 2, "must end in .csv"),
        (["photos", "--out", "none/no/birds.csv"], 2, "there is no such folder"),
        (["photos", "--out", "none"], 2, "must end in"),
        (["photos", "--out", "/proc/birds.csv"], 1, "could not be written"),
        (["photos", "--out", "/dev/full", "--format", "csv"], 2, "is no plain file"),
        (["photso", "--out", "birds.csv"], 1, "photso: no such file or directory"),
        (["photos", "-", "--out", "birds.csv"], 2, "`--files-from -`"),
        (["none", "--out", "birds.csv"], 2, "none: no photos, and 1 other files."),
        (["photos", "--out", "birds.csv", "--marks", "2"], 1, "has no field marks"),
    ):
        assert main(["classify", *arguments, "--model", model]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert ["none", "photos"] == sorted(os.listdir(here))


def test_a_full_disk_stops_with_what_is_safe(
    many: Path, model: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of the file's size stands for the disk; no row is torn, and the same command goes on."""
    limit, before = 9000, resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        assert main(["classify", str(many), "--model", model, "--out", "birds.csv"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    rows = len(paths_in(Path("birds.csv")))
    assert f"birds.csv: file too large; {rows} photos are safe, and the same command goes on" in capsys.readouterr().err
    assert (True, True) == (0 < rows < 300, Path("birds.csv").read_bytes().endswith(b"\n"))
    assert main(["classify", str(many), "--model", model, "--out", "birds.csv"]) == 0
    assert 300 == len(set(paths_in(Path("birds.csv"))))


def test_one_command_a_table(many: Path, model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two at the same time would write every row twice."""
    from service.commands.folder.table.header import locked

    with locked(Path("birds.csv.json")):
        assert main(["classify", str(many), "--model", model, "--out", "birds.csv"]) == 2
    assert "fieldmark: birds.csv is being written by another command.\n" == capsys.readouterr().err


def test_without_a_table_a_line_a_photo(
    photos: Path, model: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its path; in JSON a line of it."""
    assert main(["classify", "photos/deep", "--model", model]) == 0
    shown = capsys.readouterr()
    assert ["Blue bird  e.dat", "Green bird  er/d.jpg"] == [line[9:] for line in shown.out.splitlines()]
    assert "2 photos\n" == shown.err
    assert main(["classify", "photos", "--model", model, "--json"]) == 1
    rows: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted([*GOOD, *BAD]) == [row["path"] for row in rows]


def test_names_from_the_standard_input(many: Path, model: str, here: Path) -> None:
    """As `find` lists them; marks have their columns."""
    listed = subprocess.run(["find", "many", "-name", "*0.png", "-print0"], capture_output=True, check=True, cwd=here)
    done = subprocess.run(
        command("--files-from", "-", "--model", model, "--out", "birds.csv"), input=listed.stdout, capture_output=True
    )
    assert (0, b"") == (done.returncode, done.stderr)
    assert {f"many/{i % 3}/{i:03}.png" for i in range(0, 300, 10)} == set(paths_in(Path("birds.csv")))


def test_marks_have_columns(photos: Path, marked_model: str, here: Path) -> None:
    """As many as were asked for."""
    assert main(["classify", "photos/deep", "--model", marked_model, "--out", "birds.csv", "--marks", "2"]) == 0
    first, _ = csv.DictReader(Path("birds.csv").read_text().splitlines())
    assert ("blue wing", "wing") == (first["marks_1_name"], first["marks_1_part"])
    assert "missing_2_name" in first


def test_addresses_are_read_and_written(many: Path, model: str, here: Path) -> None:
    """By fsspec, in parts; what was done is not done again."""
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(str(many), "/photos", recursive=True)
    for format_ in FORMATS:
        address = f"memory://results/birds.{format_}"
        assert main(["classify", "memory://photos", "--model", model, "--out", address]) == 0
        assert main(["classify", "memory://photos", "--model", model, "--out", address]) == 0
        store.get(f"/results/birds.{format_}", str(here / f"birds.{format_}"))
        assert sorted(f"{i % 3}/{i:03}.png" for i in range(300)) == sorted(paths_in(here / f"birds.{format_}"))
    assert 6 == len(store.ls("/results"))
    store.rm("/", recursive=True)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(model: str, many: Path, here: Path) -> None:
    """The second half of 5,000 photos takes no more memory than the first: less than 2 kB a photo."""
    first = sorted(many.glob("[0-2]/*.png"))
    for index in range(1, 17):
        for path in first:
            os.link(path, path.with_name(f"{index}-{path.name}"))
    script = (
        "import os, sys\n"
        "from service.commands.folder import job\n"
        "write, rows, used = job.Job._write, 0, []\n"
        "def observe(self, task):\n"
        "    global rows\n"
        "    rows += 1\n"
        "    if rows in (2500, 5000):\n"
        "        used.append(int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE'))\n"
        "    write(self, task)\n"
        "job.Job._write = observe\n"
        "from service.cli import main\n"
        "code = main()\n"
        "print(used[1] - used[0])\n"
        "sys.exit(code)\n"
    )
    arguments = ["classify", str(many), "--model", model, "--out", "birds.csv"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 2500 * 2000


def test_a_table_that_was_edited_is_refused(tmp_path: Path) -> None:
    """A line that is no row is named."""
    from service.commands.folder.table.rows import JsonLines
    from service.errors import InvalidOption

    (tmp_path / "t.jsonl").write_text('{"path": "a.png"}\n{"path": 3}\n')
    with pytest.raises(InvalidOption, match=r"line 2, is no row"):
        GrowingTable(tmp_path / "t.jsonl", JsonLines())
