"""What all tests share: the folder of real data, or a skip that says it is missing."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Torch writes a debug record for every guard; kept for the report of a failure, they double the time of an export.
logging.getLogger("torch.__trace").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run tests that are coroutines, marked `anyio`, on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real photos and weights, `FIELDMARK_DATA`; skip where it is not set."""
    folder = os.environ.get("FIELDMARK_DATA")
    if not folder:
        pytest.skip("FIELDMARK_DATA is not set: no real data here")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"FIELDMARK_DATA={folder} is not a folder")
    return path


@pytest.fixture(scope="session")
def cub_dir(data_dir: Path) -> Path:
    """Return CUB-200-2011's first 50 classes in the official layout."""
    return data_dir / "CUB_200_2011_first50"


@pytest.fixture(scope="session")
def bird_photos(cub_dir: Path) -> list[Path]:
    """Return the paths of the official test photos, sorted."""
    lines = (line.split() for line in (cub_dir / "train_test_split.txt").read_text().splitlines())
    is_train = {image_id: flag == "1" for image_id, flag in lines}
    images = (line.split() for line in (cub_dir / "images.txt").read_text().splitlines())
    return sorted(cub_dir / "images" / path for image_id, path in images if not is_train[image_id])


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an exported SqueezeNet with ten marks and an embedding, five classes, 64 px, and its network.

    Of all rooms, since an export takes long; only its tests import torch.
    """
    from model.contract.manifest import synthetic_images
    from model.export.export import export
    from model.export.running import session
    from tests.model.networks import SIZE, Exported, make_marked

    (network, manifest, fitted), path = make_marked(), tmp_path_factory.mktemp("marked") / "marked.onnx"
    images = synthetic_images(3, 7, SIZE)
    report = export(network, manifest, path, images=images, fitted=fitted)
    return Exported(network, path, report, session(path.read_bytes()), images)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep commands out of the user's cache, where they remember the models that they have verified."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
