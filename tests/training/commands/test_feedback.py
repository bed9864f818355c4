"""Accuracy as confirmed by users, out of a file of feedback."""

import json
from pathlib import Path
from typing import Any

import pytest

from training import cli
from training.commands import feedback as module
from training.commands.feedback import MOST_LINE_BYTES, read_feedback


def line(request_id: str, label: str | None, predicted: str = "Wren", **more: Any) -> str:
    """Return a line as the service writes it."""
    whole = {
        "time": "2026-11-26T12:00:00+00:00", "request_id": request_id, "image": 0, "label": label,
        "predicted": predicted, "known": True, "novelty": 0.4, "model": "cub50", "version": "2", "sha256": "ab",
    }  # fmt: skip
    return json.dumps(whole | more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of five answers, one of them corrected later, with damaged lines in between."""
    path = tmp_path / "feedback.jsonl"
    lines = [
        line("a", "Wren"),
        line("b", "Wren"),
        '{"request_id": "cut',
        line("b", "Robin"),  # the user thought again
        "",
        line("c", None, known=False),
        "\x00" * (MOST_LINE_BYTES * 2 + 5),
        line("a", "Robin", "Robin", image=1),
        '{"request_id": "other", "label": null}',
        line("d", "Wren", version="3"),
    ]
    path.write_text("\n".join([*lines, line("e", "Wren")[:50]]))
    return path


def test_figures(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last word counts; damaged lines are named; none of the classes is counted apart from a wrong class."""
    assert 0 == cli.main(["evaluate", "--feedback", str(file), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (5, 1, [3, 7, 9, 11]) == (found["answers"], found["replaced"], found["damaged_lines"])
    assert (0.75, 4) == (found["top1"]["value"], found["top1"]["n"])
    assert (0.6, 5) == (found["right"]["value"], found["right"]["n"])
    assert found["right"]["low"] < 0.6 < found["right"]["high"]
    assert (0.2, 5) == (found["none"]["value"], found["none"]["n"])
    assert (0.75, 1.0) == tuple(
        found["by_known"][name][of]["value"] for name, of in (("known", "top1"), ("unknown", "none"))
    )
    assert {"cub50/2": 4, "cub50/3": 1} == {name: one["right"]["n"] for name, one in found["by_model"].items()}
    assert [("Wren", 2, None), ("Robin", 2, "Wren")] == [
        (one["label"], one["n"], one["taken_for"]) for one in found["by_class"]
    ]


def test_text(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: shares with intervals, the damaged lines by number, and classes with what they were taken for."""
    assert 0 == cli.main(["evaluate", "--feedback", str(file)])
    shown = capsys.readouterr().out
    for expected in (
        "5 answers with feedback, 1 earlier words on them replaced\n",
        "damaged lines left out (4): 3, 7, 9, 11\n",
        "right, of photos of a class 75.0% (30.1% … 95.4%) of 4\n",
        "answered as unknown:\n  right, of photos of a class no photo\n",
        "cub50/3:\n",
        "  Robin: 50.0% (9.5% … 90.5%) of 2, else mostly taken for Wren\n",
    ):
        assert expected in shown


def test_hostile_labels_are_left_out(tmp_path: Path) -> None:
    """A file that anybody may have written moves no cursor."""
    path = tmp_path / "f"
    path.write_text("\n".join([line("a", "\x1b[2JWren"), line("b", None), line("c", None, model="\x07")]))
    confirmed = read_feedback(path)
    assert (["b"], [1, 3]) == ([one.request_id for one in confirmed.said], confirmed.damaged)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--feedback", "none"], "none: no such file or directory"),
        (["--feedback", "."], ".: is a directory"),
        (["--feedback", "empty"], "empty: no line of it is feedback"),
        (["run", "--feedback", "empty"], "--feedback FILE stands alone"),
        ([], "give RUN|FILE.onnx and --data DIR, or --feedback FILE"),
        (["run"], "give RUN|FILE.onnx and --data DIR, or --feedback FILE"),
    ],
)
def test_what_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line."""
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    assert 1 == cli.main(["evaluate", *arguments])
    assert capsys.readouterr().err.startswith(f"fieldmark-train evaluate: {message}")


def test_too_many_lines(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are refused, before they fill the memory."""
    monkeypatch.setattr(module, "MOST_LINES", 10)
    with pytest.raises(module.TrainingError, match="more than 10 lines"):
        read_feedback(file)
