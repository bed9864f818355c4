"""The work of every server under comparison: the same file, decode, session, thread and answer."""

from pathlib import Path
from typing import Any

import numpy as np

from model.photo.budget import return_large_blocks
from model.photo.decode import decode_image, prepare
from service.inference.engine import OnnxEngine, Question
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
        self._question = Question.about(self._engine.manifest)

    def __call__(self, data: bytes) -> dict[str, Any]:
        """Return the five likeliest classes of an encoded photo."""
        decoded = decode_image(data, min_side=self._resize.size)
        pixels = prepare(decoded, self._resize)
        probabilities = self._engine.run(pixels[None], self._question).probabilities[0]
        best = np.argsort(-probabilities, kind="stable")[:5].tolist()
        labels = self._engine.manifest.labels
        scores = [
            {"label": labels[index], "index": index, "probability": round(float(probabilities[index]), 6)}
            for index in best
        ]
        return {"predictions": scores, "width": decoded.width, "height": decoded.height}
