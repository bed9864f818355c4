"""What a run reports: one line of `metrics.jsonl` per epoch, a progress bar, and the curves as a picture."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.files import replacing, write_whole

METRICS = "metrics.jsonl"
CURVES = "curves.png"
REFRESH_S = 0.5
"""Shortest time between two updates of the bar."""

Record = dict[str, Any]


class Journal:
    """The epochs of a run so far, on disk and in memory.

    Args:
        folder: of the run.
        epochs: done so far; later lines of an interrupted run are dropped.
        write: whether this process writes; one of several does.
    """

    def __init__(self, folder: Path, epochs: int = 0, *, write: bool = True) -> None:
        self._path = folder / METRICS
        self._write = write
        self.records: list[Record] = [record for record in read_metrics(folder) if record["epoch"] <= epochs]
        if write:
            text = "".join(json.dumps(record) + "\n" for record in self.records)
            write_whole(self._path, text)

    def add(self, record: Record) -> None:
        """Append one epoch."""
        self.records.append(record)
        if self._write:
            # Appended, so that `tail -f` works; readers drop a line that a crash truncated.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def read_metrics(folder: Path) -> list[Record]:
    """Return the epochs written so far; a truncated last line is dropped."""
    path = folder / METRICS
    records: list[Record] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records


class Progress:
    """A bar over all steps of a run, with loss, accuracy and time left, and one line per epoch above it.

    Args:
        total: steps of the whole run.
        done: steps done so far, when a run is resumed.
        visible: whether to show anything.
    """

    def __init__(self, total: int, done: int, *, visible: bool) -> None:
        self._visible = visible
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="step",
            mininterval=REFRESH_S,
            dynamic_ncols=True,
            disable=not visible or not sys.stderr.isatty(),
        )

    def show(self, epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        """Set epoch, loss and accuracy beside the bar."""
        self._bar.set_description_str(f"epoch {epoch + 1}/{epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}", refresh=False)

    def step(self) -> bool:
        """Advance by one step; return whether to call `show`: reading the loss costs one synchronisation."""
        return bool(self._bar.update())

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        if self._visible:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Finish the bar and leave it on the screen."""
        self._bar.close()


def describe(record: Mapping[str, Any], epochs: int) -> str:
    """Return one epoch as a line of text."""
    parts = [f"epoch {record['epoch']}/{epochs}", f"loss {record['loss']:.3f}", f"train {record['train_top1']:.1%}"]
    if record.get("guidance"):
        parts.append(f"guidance {record['guidance']:.3f}")
    if record.get("marks"):
        parts.append(f"marks {record['marks']:.3f}")
    if "held_out_top1" in record:
        parts.append(f"held-out {record['held_out_top1']:.1%} (loss {record['held_out_nll']:.3f})")
    parts.append(f"{record['seconds']:.1f} s, {record['images_per_s']:.0f} images/s")
    return ", ".join(parts)


def draw_curves(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in records]
    curves = (
        ("loss", ("loss", "cross_entropy", "guidance", "marks", "held_out_nll")),
        ("accuracy", ("train_top1", "held_out_top1")),
        ("learning rate", ("lr_backbone", "lr_new")),
    )
    for panel, (title, names) in zip(panels, curves, strict=True):
        for name in names:
            if any(record.get(name) for record in records):
                panel.plot(epochs, [record.get(name, float("nan")) for record in records], label=name, marker=".")
        panel.set(title=title, xlabel="epoch")
        panel.grid(alpha=0.3)
        panel.legend()
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
