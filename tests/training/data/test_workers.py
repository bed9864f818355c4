"""Worker processes."""

import gc
import os
import signal
from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.model.networks import Exported
from training.data.batches import varied_photos
from training.data.samples import Dataset as Photos
from training.data.store import PhotoFiles, Preparation, shrink_to
from training.data.transforms import training_transform
from training.data.workers import loader
from training.recipe import Recipe


class Numbers(Dataset[Tensor]):
    """Eight numbers; every access collects garbage."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        gc.collect()
        return torch.tensor([index, os.getpid(), torch.get_num_threads()])


@pytest.fixture
def orphan(marked: Exported) -> Iterator[None]:
    """Leave garbage that holds a session with threads of its own; it is freed by the collector alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 3
    holder = [onnxruntime.InferenceSession(marked.path.read_bytes(), options, providers=["CPUExecutionProvider"])]
    gc.disable()
    holder.append(holder)
    del holder
    yield
    gc.enable()


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("orphan")
def test_garbage_of_this_process_is_not_theirs() -> None:
    """A worker would free the session, and wait for ever for the threads that a copy of this process has not."""
    rows = np.concatenate([batch.numpy() for batch in loader(Numbers(), workers=2, batch_size=2)])
    assert rows[:, 0].tolist() == list(range(8))
    assert len({*rows[:, 1]}) == 2
    assert os.getpid() not in rows[:, 1]
    assert {*rows[:, 2]} == {1}


class Interrupted(Numbers):
    """Every access is interrupted."""

    def __getitem__(self, index: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


def test_they_leave_interrupts_to_the_process_that_trains() -> None:
    """In a terminal Ctrl-C reaches them, too: what it asks for must still be loaded for its last step."""
    rows = np.concatenate([batch.numpy() for batch in loader(Interrupted(), workers=1, batch_size=4)])
    assert rows[:, 0].tolist() == list(range(8))


def test_none_are_started_for_nought() -> None:
    """Without workers, this process loads."""
    batches = loader(Numbers(), workers=0, batch_size=8)
    assert isinstance(batches, DataLoader)
    (rows,) = batches
    assert {*rows[:, 1].tolist()} == {os.getpid()}


def test_photos_that_fit_no_store_are_sent_to_them(birds: Photos, tiny: Recipe) -> None:
    """They are decoded, shrunk and varied by a worker as they are here."""
    photos = PhotoFiles([sample.path for sample in birds.train], Preparation("shrink", shrink_to(50)))
    items = varied_photos(photos, birds.train, training_transform(tiny))
    (ours, _), (theirs, _) = (next(iter(loader(items, workers=count, batch_size=4))) for count in (0, 1))
    assert torch.equal(ours, theirs)
