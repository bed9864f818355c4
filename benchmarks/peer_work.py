"""What every server under comparison does with a photo: the same file, decode, session, thread and answer."""

from pathlib import Path
from typing import Any

import numpy as np

from model.photo.budget import return_large_blocks
from model.photo.decode import decode_image, prepare
from service.engine import BEST, OnnxEngine
from service.settings import Settings


class Work:
    """A model behind one function; safe to call from several threads.

    Args:
        model: an ONNX file.
    """

    def __init__(self, model: Path) -> None:
        return_large_blocks()
        self._engine = OnnxEngine(model, Settings(device="cpu"))
        self._engine.warm_up()
        self._resize = self._engine.manifest.resize
        self._target = np.full((1, 1), BEST, dtype=np.int64)
        self._none = np.full((1, 1), self._engine.manifest.num_classes, dtype=np.int64)

    def __call__(self, data: bytes) -> dict[str, Any]:
        """Return the five likeliest classes of an encoded photo."""
        decoded = decode_image(data, min_side=self._resize.size)
        pixels = prepare(decoded, self._resize)
        probabilities = self._engine.run(pixels[None], self._target, self._none, 0).probabilities[0]
        best = np.argsort(-probabilities, kind="stable")[:5].tolist()
        labels = self._engine.manifest.labels
        scores = [
            {"label": labels[index], "index": index, "probability": round(float(probabilities[index]), 6)}
            for index in best
        ]
        return {"predictions": scores, "width": decoded.width, "height": decoded.height}
