"""What both commands do at a terminal, tried in processes of their own where streams matter."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from model.terminal import Parser, one_line, plain, reason_of

PRINTS = """
import sys, json
from model.terminal import plain, run
def command():
    print(plain("×█ " + sys.argv[1]))
    print(json.dumps(["é×😀", sys.argv[1]], ensure_ascii=False))
    return 0
sys.exit(run(command, lambda message: print("refused:", message, file=sys.stderr) or 1))
"""


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "cp1252", "utf-8:strict", "utf-16"])
def test_any_text_goes_to_any_pipe(encoding: str) -> None:
    """Names that are not UTF-8 and characters that the pipe cannot encode are escaped; JSON keeps its text."""
    command = [sys.executable, "-c", PRINTS, b"caf\xe9.jpg"]
    done = subprocess.run(command, env={"PYTHONIOENCODING": encoding, "PATH": ""}, capture_output=True)
    assert (0, b"") == (done.returncode, done.stderr)
    shown, as_json = done.stdout.decode(encoding.partition(":")[0]).splitlines()
    assert shown.endswith("caf\\udce9.jpg")
    assert ["é×😀", "caf\udce9.jpg"] == json.loads(as_json)


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    """A failed write is reported once."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS, "a"], stdout=full, stderr=subprocess.PIPE, text=True)
    (line,) = done.stderr.splitlines()
    assert (1, True) == (done.returncode, line.startswith("refused: ") and line.endswith("no space left on device"))


@pytest.mark.parametrize("shell", ['"$@" | true', '"$@" >&-'])
def test_a_reader_that_is_gone_is_no_fault(shell: str) -> None:
    """Neither `| head` nor a closed output prints a message of Python's own."""
    many = PRINTS.replace("print(json", "print('x' * 10**6); print(json")
    command = ["bash", "-o", "pipefail", "-c", shell, "bash", sys.executable, "-c", many, "a"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)


def _parser() -> Parser:
    parser = Parser(prog="tool")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fit = commands.add_parser("fit")
    fit.add_argument("--data", required=True)
    fit.add_argument("--attention")
    commands.add_parser("export")
    return parser


@pytest.mark.parametrize(
    ("given", "usage", "message"),
    [
        (["fit", "--data", "a", "--atention=x"], "usage: tool fit", "did you mean --attention instead of --atention?"),
        (["fit", "--dta", "a"], "usage: tool fit", "--data; did you mean --data instead of --dta?"),
        (["fit", "--data", "a", "more"], "usage: tool fit", "unrecognized arguments: more\n"),
        (["fti"], "usage: tool ", "did you mean fit?"),
        (["fit", "--data", "a", "--zzz"], "usage: tool fit", "unrecognized arguments: --zzz\n"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(
    given: list[str], usage: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The usage is that of the given command, and the last line suggests what was probably meant."""
    with pytest.raises(SystemExit) as stopped:
        _parser().parse_args(given)
    shown = capsys.readouterr().err
    assert (2, True, True) == (stopped.value.code, shown.startswith(usage), message in shown)


def test_a_fault_names_its_file_in_one_line(tmp_path: Path) -> None:
    """Also where the name holds a line break."""
    with pytest.raises(OSError) as raised:
        (tmp_path / "a\nb").read_bytes()
    assert f"{tmp_path}/a b: no such file or directory" == reason_of(raised.value)
    assert "disk on fire" == reason_of(OSError("disk on fire"))
    assert "a b" == one_line("a\n b ")


def test_signs_for_people_have_a_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars are drawn with characters that the output can encode."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert "4x3 ##" == plain("4×3 ██")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert "4×3 ██" == plain("4×3 ██")
