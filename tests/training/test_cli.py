"""`fieldmark-train` itself: what a command imports, and its errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.cli import main
from training.commands.export import load_source
from training.data.store import cache_folder
from training.errors import TrainingError

COMMAND = """
import sys
from training.cli import main

ONNX = {"onnx", "onnxruntime", "onnxscript", "onnx_ir"}
if sys.argv.pop(1) == "absent":
    sys.modules.update(dict.fromkeys(ONNX))
status = main(sys.argv[1:])
print(sorted(name for name, module in sys.modules.items() if name.partition(".")[0] in ONNX and module is not None))
sys.exit(status)
"""


@pytest.mark.parametrize("onnx", ["installed", "absent"])
def test_fit_neither_loads_nor_needs_onnx(tiny_options: list[str], tmp_path: Path, onnx: str) -> None:
    """A run with cached features in its own interpreter imports neither ONNX nor its runtime."""
    options = ["fit", *tiny_options, "--epochs=1", "--set=optim.freeze_stages=1", "--set=data.cached_views=1"]
    command = [sys.executable, "-c", COMMAND, onnx, *options, "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    *result, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert json.loads("\n".join(result))["finished"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["export", "run", "--out", "run.bin"], "run.bin: the name must end in .onnx"),
        (["export", "run", "--out", "file/x.onnx"], "file/x.onnx could not be written (file is a file, not a folder)"),
        (["export", "run", "--out", "folder.onnx"], "folder.onnx could not be written (it is a folder)"),
        (["evaluate", "run", "--data", "none", "--out", "file"], "file could not be written"),
        (["evaluate", "run", "--data", "none", "--card", "folder.onnx"], "folder.onnx could not be written"),
        (
            ["evaluate", "run", "--data", "none", "--card", "latin"],
            "latin: not UTF-8: unexpected end of data at byte 3",
        ),
        (["evaluate", "run", "--data", "none", "--card", "half"], "half: needs <!-- evaluation --> and"),
        (["compare", "--data", "none", "--out", "file"], "file could not be written"),
        (["fit", "--data", "none", "--out", "file/run"], "file/run could not be written"),
        (["export", "file.onnx", "--out", "x.onnx"], "file.onnx: no such file or directory"),
        (
            ["export", "--torchvision=a", "--weights=w", "--layer=l", "--labels=none", "--out=x.onnx"],
            "none: no such file or directory",
        ),
        (
            ["export", "--torchvision=a", "--weights=w", "--layer=l", "--labels=latin", "--out=x.onnx"],
            "latin: not UTF-8: unexpected end of data at byte 3",
        ),
        (
            ["export", "--torchvision=a", "--weights=w", "--layer=l", "--labels=none", "--out=x.onnx", "--no-missing"],
            "--missing: not with --torchvision",
        ),
        (
            [
                "export",
                "--torchvision=a",
                "--weights=w",
                "--layer=l",
                "--labels=none",
                "--out=x.onnx",
                "--name=n",
                "--precision=int8",
                "--data=d",
            ],
            "--name, --data, --precision: not with --torchvision",
        ),
    ],
)
def test_a_bad_path_is_refused_in_one_line_before_the_work(
    command: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output is checked first: the inputs of these commands do not exist either."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.onnx").mkdir()
    Path("latin").write_bytes("café".encode("latin-1"))
    Path("half").write_text("<!-- evaluation -->")
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fieldmark-train {command[0]}: {said}")


def test_without_a_home_folder_the_cache_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder has none for decoded photos; the message names --cache."""
    for name in ("FIELDMARK_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(TrainingError, match="--cache"):
        cache_folder()


def test_help_loads_no_torch() -> None:
    """So that it is printed at once."""
    program = "import sys, training.cli; print(sorted({'torch', 'onnx', 'onnxruntime', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("option", ["--faithfulness", "--sanity"])
@pytest.mark.parametrize("number", ["-1", "all", "1.5"])
def test_numbers_of_photos_are_numbers(capsys: pytest.CaptureFixture[str], option: str, number: str) -> None:
    """The message repeats what was given, in words."""
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--data", ".", f"{option}={number}"])
    assert f"argument {option}: '{number}' is not a number of photos" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-2", "1", "all"])
def test_folds_are_two_or_more(capsys: pytest.CaptureFixture[str], number: str) -> None:
    """One fold would hold out every photo."""
    with pytest.raises(SystemExit):
        main(["fit", "--data", ".", "--out", "run", f"--folds={number}"])
    assert f"argument --folds: '{number}' is not a number of folds from 2" in capsys.readouterr().err


def test_folds_of_real_birds_from_the_command_to_the_manifest(
    cub_dir: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by its time budget again and again, the same command ends; the run is evaluated and exported as any."""
    data, run = tmp_path / "cub", tmp_path / "run"
    _few_birds(cub_dir, data, classes=3, photos=14)
    common = ["--data", str(data), "--device=cpu", "--workers=0", "--json", "--quiet"]
    tiny = {
        "data.input_size": 48,
        "data.resize_size": 56,
        "optim.batch_size": 4,
        "network.hidden": 16,
        "marks.weight": 0.3,
    }
    fit = ["fit", *common, "--recipe=released", "--backbone=squeezenet1_1", "--weights=none", "--epochs=1", "--folds=2"]
    fit += [f"--set={key}={value}" for key, value in tiny.items()]
    fit += ["--cache", str(cache), "--out", str(run), "--time-budget-s=0"]
    stops = []
    while main(fit) == 75:
        printed = capsys.readouterr()
        assert not json.loads(printed.out)["finished"]
        stops.append(printed.err.splitlines()[-1])
    assert {
        "stopped after epoch 0 of fold 1 of 2; the same command resumes",
        "stopped after epoch 1 of fold 2 of 2; the same command resumes",
        "stopped after epoch 0; the same command resumes",
    } <= set(stops)
    result = json.loads(capsys.readouterr().out)
    assert result["held_out_images"] == result["folds"]["top1"]["n"] > 20
    assert result["folds"]["top1"]["low"] <= result["held_out_top1"] <= result["folds"]["top1"]["high"]
    assert main([option for option in fit if option != "--json"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["folds"] == "2"
    assert float(rows["held_out_top1_low"]) < result["held_out_top1"] < float(rows["held_out_top1_high"])
    assert main(["evaluate", str(run), *common]) == 0
    assert json.loads(capsys.readouterr().out)["images"] > 0
    source = load_source(run)
    manifest = source.manifest
    assert manifest.marks is not None
    assert ("hooked seabird bill", "bill") == (manifest.marks.marks[4].name, manifest.marks.marks[4].part)
    assert source.fitted.marks is not None
    assert 312 == len(source.fitted.marks.scale) == manifest.marks.num_marks
    assert source.fitted.embedding is not None
    assert source.fitted.embedding.num_photos == manifest.provenance.num_train
    assert manifest.provenance.num_train == result["held_out_images"]
    assert manifest.temperature == result["held_out_temperature"]
    assert manifest.metrics["held_out_top1"] == result["held_out_top1"]
    assert manifest.provenance.recipe["folds"] == 2


def _few_birds(cub: Path, folder: Path, classes: int, photos: int) -> None:
    """Write the lists of a few photos of the first classes, beside the real photos."""
    folder.mkdir()
    (folder / "images").symlink_to(cub / "images")
    of_class = (line.split() for line in (cub / "image_class_labels.txt").read_text().splitlines())
    labels = {key: int(label) for key, label in of_class if int(label) <= classes}
    kept = {key for label in range(1, classes + 1) for key in [key for key in labels if labels[key] == label][:photos]}
    for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"):
        lines = (cub / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(line for line in lines if line.split()[0] in kept))
    (folder / "attributes").mkdir()
    (folder / "attributes" / "attributes.txt").symlink_to(cub / "attributes" / "attributes.txt")
    table = "class_attribute_labels_continuous.txt"
    rows = (cub / "attributes" / table).read_text().splitlines(keepends=True)
    (folder / "attributes" / table).write_text("".join(rows[:classes]))
    lines = (cub / "classes.txt").read_text().splitlines(keepends=True)
    (folder / "classes.txt").write_text("".join(lines[:classes]))
