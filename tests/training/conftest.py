"""Tiny data sets in the real layouts, and a recipe that trains on them in seconds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.datasets import load_dataset
from training.data.samples import Dataset
from training.fit.job import Job
from training.recipe import Recipe

COLOURS = {"001.Red_Bird": (210, 40, 40), "002.Green_Bird": (40, 190, 60), "003.Blue_Bird": (40, 60, 210)}
PER_CLASS = 10


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on many threads, and other tests need the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bird(colour: tuple[int, int, int], number: int, size: tuple[int, int] = (80, 64)) -> Image.Image:
    """Return a coloured square on noise, the same for the same number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    x, y = rng.integers(10, 30), rng.integers(5, 25)
    pixels[y : y + 32, x : x + 32] = colour
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def cub_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in CUB's official layout: three classes, ten images each, two of them test, with boxes."""
    root = tmp_path_factory.mktemp("birds")
    images, labels, splits, boxes = [], [], [], []
    (root / "classes.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(COLOURS, 1)))
    for index, (name, colour) in enumerate(COLOURS.items(), 1):
        (root / "images" / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            key = (index - 1) * PER_CLASS + number + 1
            bird(colour, key).save(root / "images" / name / f"{number}.png")
            images.append(f"{key} {name}/{number}.png\n")
            labels.append(f"{key} {index}\n")
            splits.append(f"{key} {int(number < PER_CLASS - 2)}\n")
            boxes.append(f"{key} 10.0 5.0 52.0 52.0\n")
    for file, lines in (
        ("images.txt", images),
        ("image_class_labels.txt", labels),
        ("train_test_split.txt", splits),
        ("bounding_boxes.txt", boxes),
    ):
        (root / file).write_text("".join(lines))
    return root


@pytest.fixture(scope="session")
def birds(cub_like: Path) -> Dataset:
    """Return the tiny data set, read."""
    return load_dataset(cub_like)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for decoded photos that all tests share."""
    return tmp_path_factory.mktemp("cache")


TINY_VALUES = {
    "network.backbone": "squeezenet1_1",
    "network.pooling": "avg",
    "network.hidden": 16,
    "data.input_size": 48,
    "data.resize_size": 56,
    "data.held_out": 0.25,
    "augment.scale": [0.5, 1.0],
    "augment.brightness": 0.1,
    "optim.epochs": 2,
    "optim.batch_size": 6,
    "optim.lr_backbone": 0.01,
    "optim.lr_new": 0.02,
    "optim.warmup_epochs": 0.5,
    "network.dropout": 0.1,
}


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """Return a recipe that trains in a second."""
    return Recipe(name="tiny").with_values(TINY_VALUES)


@pytest.fixture(scope="session")
def tiny_options(cub_like: Path, cache: Path) -> list[str]:
    """Return the same recipe and data as options of the command."""
    values = [f"--set={name}={json.dumps(value)}" for name, value in TINY_VALUES.items()]
    return [*values, "--data", str(cub_like), "--cache", str(cache), "--weights=none", "--workers=0", "--device=cpu"]


@pytest.fixture
def make_job(birds: Dataset, tiny: Recipe, cache: Path, tmp_path: Path) -> Callable[..., Job]:
    """Return a function that makes a job on the tiny data set; keywords replace its fields or, dotted, the recipe's."""

    def make(out: str = "run", recipe: Recipe = tiny, dataset: Dataset = birds, **changes: object) -> Job:
        fields = {name: value for name, value in changes.items() if name in Job.__dataclass_fields__}
        values = {name.replace("__", "."): value for name, value in changes.items() if name not in fields}
        return Job(
            recipe=recipe.with_values(values),
            dataset=dataset,
            out=tmp_path / out,
            weights=None,
            cache=cache,
            **{"device": "cpu", "visible": False, **fields},  # type: ignore[arg-type]
        )

    return make
