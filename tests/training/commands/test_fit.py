"""`fieldmark-train fit`: what it says, keeps, and starts from."""

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch

from training.checkpoint import load_selected
from training.cli import main
from training.data import batches
from training.fit import loop


def test_a_run_starts_from_another_and_says_what_it_does(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backbone is the other run's, of whatever classes; words go to the standard error, the result does not."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["fit", *tiny_options, "--out", str(first), "--epochs=1"]) == 0
    said = capsys.readouterr().err
    for words in (
        "3 classes, ",
        "weights at the start: random",
        "keeps epoch 1 of 1: the best on",
        "warning: the temp",
    ):
        assert words in said
    assert said.endswith("--out first.onnx\n")
    frozen = ["--set=optim.freeze_stages=2", "--weights", str(first), "--out", str(second), "--epochs=1"]
    assert main(["fit", *tiny_options, *frozen]) == 0
    assert "weights at the start: first" in capsys.readouterr().err
    before, after = (load_selected(run).state_dict for run in (first, second))
    name = "backbone.features.0.weight"
    assert torch.equal(before[name], after[name])
    other = ["--weights", str(first), "--backbone=mobilenet_v2", "--out", str(tmp_path / "third")]
    assert main(["fit", *tiny_options, *other]) == 1
    assert "first holds a squeezenet1_1, not a mobilenet_v2: take --backbone squeezenet1_1" in capsys.readouterr().err


def test_a_run_that_does_not_begin_leaves_no_folder(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither missing weights nor Ctrl-C before the first step leave a folder; Ctrl-C says what is kept."""
    out = tmp_path / "run"
    assert main(["fit", *tiny_options, "--weights", str(tmp_path), "--out", str(out)]) == 1
    assert "best.pt" in capsys.readouterr().err
    assert not out.exists()

    def interrupt(run: loop.Run) -> None:
        assert out.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "introduce", interrupt)
    assert main(["fit", *tiny_options, "--out", str(out)]) == 130
    assert "stopped at once; nothing is kept but the checked photos\n" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()  # a folder that was there before is left alone
    assert main(["fit", *tiny_options, "--out", str(out)]) == 130
    assert out.is_dir()


def test_a_worker_that_is_killed_is_one_line(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the system does where memory is short; the line says what takes less."""

    def killed(*_: object) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(batches, "_varied", killed)  # a worker is a copy of this process
    assert main(["fit", *tiny_options, "--workers=1", "--out", str(tmp_path / "run")]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fieldmark-train fit: a process that loads photos was killed, mostly for want of memory")


def test_the_next_commands_read_the_same_data(
    tiny_options: list[str], cub_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With the options that say how; evaluating as it is printed works."""
    how = ["--layout=train=a,test=b", "--skip-damaged"]
    data = tmp_path / "two words"
    for photo in (cub_like / "images").glob("*/*.png"):
        part = "b" if photo.stem in ("1", "2") else "a"
        (data / part / photo.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, data / part / photo.parent.name)
    run = str(tmp_path / "run")
    assert main(["fit", *tiny_options, "--data", str(data), *how, "--epochs=1", "--out", run]) == 0
    there = capsys.readouterr().err.partition("next: fieldmark-train ")[2].splitlines()[0]
    assert there.startswith("evaluate ")
    assert there.endswith(" --layout train=a,test=b --skip-damaged")
    monkeypatch.setenv("FIELDMARK_CACHE", tiny_options[tiny_options.index("--cache") + 1])
    assert main([*shlex.split(there), "--workers=0", "--device=cpu"]) == 0
