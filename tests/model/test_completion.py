"""The completion script, run by a real bash."""

import argparse
import shutil
import subprocess

import pytest

from model.completion import completion

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")


@pytest.fixture(scope="module")
def script() -> str:
    """Return the script of a command."""
    parser = argparse.ArgumentParser(prog="field-tool")
    commands = parser.add_subparsers()
    serve = commands.add_parser("serve")
    serve.add_argument("--device", metavar="auto|cuda|cpu")
    serve.add_argument("-o", "--out", metavar="OUT.png")
    serve.add_argument("--part", choices=("test", "held-out"))
    serve.add_argument("--json", action="store_true")
    commands.add_parser("inspect").add_argument("file", metavar="run|file")
    return completion(parser)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["s"], "serve"),
        ([""], "serve inspect"),
        (["serve", "--"], "--help --device --out --part --json"),
        (["serve", "photo.jpg", "--d"], "--device"),
        (["serve", "--device", "c"], "cuda cpu"),
        (["serve", "--part", ""], "test held-out"),
        (["serve", "--out", ""], ""),
        (["serve", "pho"], ""),
        (["inspect", "--"], "--help"),
        (["inspect", ""], ""),
        (["none", "--"], ""),
    ],
)
def test_offered_words(typed: list[str], offered: str, script: str) -> None:
    """Commands first, then their options and values; where nothing is offered, the shell offers files."""
    check = 'COMP_WORDS=(field-tool "$@"); COMP_CWORD=$#; _field_tool; echo "${COMPREPLY[*]}"'
    done = subprocess.run(["bash", "-c", script + check, "bash", *typed], capture_output=True, text=True, check=True)
    assert (offered, "") == (done.stdout.strip(), done.stderr)
    assert "complete -o default -F _field_tool field-tool" in script
