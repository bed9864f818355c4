"""Does a loaded model compute what was exported? Checked once, before it is served.

The manifest contains the logits of synthetic images, the list of the layers whose maps the graph computes, and its
marks.
"""

import numpy as np
import numpy.typing as npt

from model.contract.graph import no_mark
from model.contract.manifest import synthetic_images
from service.inference.batcher import WorkerLost
from service.inference.engine import Engine, OnnxEngine, Outputs, Question
from service.inference.sessions import ModelRejected


def verify(engine: Engine) -> None:
    """Warm an engine and check all that is checked before a model is served.

    Raises:
        ModelRejected: it does not compute what was exported, or nothing.
        WorkerLost: the GPU is gone.
    """
    try:
        if isinstance(engine, OnnxEngine):
            engine.warm_up()
        self_check(engine)
    except (ModelRejected, WorkerLost):
        raise
    except Exception as error:
        raise ModelRejected(f"the graph fails: {error}") from error
    check_layers(engine)
    check_marks(engine)


def self_check(engine: Engine) -> None:
    """Check that an engine computes what was exported.

    Raises:
        ModelRejected: the logits of the manifest's synthetic images differ, or are not finite.
    """
    manifest = engine.manifest
    check = manifest.self_check
    count = len(check.logits) if check else 1
    images = synthetic_images(check.seed if check else 0, count, manifest.input_size)
    question = Question.about(manifest)
    logits = np.concatenate([engine.run(image[None], question).logits for image in images])
    if not np.isfinite(logits).all():
        raise ModelRejected("the self-check gave numbers that are not finite")
    if check is not None:
        difference = float(np.abs(logits - np.asarray(check.logits)).max())
        if difference > check.tolerance:
            raise ModelRejected(f"the self-check is off by {difference:.3g}; allowed are {check.tolerance:.3g}")


def check_layers(engine: Engine) -> None:
    """Run the map of every layer that the manifest lists, and of one more; on a GPU this warms them.

    Raises:
        ModelRejected: a layer fails to run, the graph does not have it, or its map has another shape than the
            manifest states or is not finite; or the graph has more layers than the manifest.
        WorkerLost: the GPU is gone.
    """
    layers = engine.manifest.layers
    check = engine.manifest.self_check
    image = synthetic_images(check.seed if check else 0, 1, engine.manifest.input_size)
    for index, layer in enumerate(layers):
        outputs = _run_layer(engine, image, index, f"layer `{layer.name}`")
        # Contract: for a layer that it does not have, the graph explains no class.
        if (outputs.explained < 0).any():
            raise ModelRejected(f"the manifest lists the layer `{layer.name}`, the graph has only {index}")
        grid = outputs.gradcam.shape[2:]
        if grid != layer.grid:
            raise ModelRejected(f"the map of layer `{layer.name}` has the shape {grid}, not {layer.grid}")
        if not np.isfinite(outputs.gradcam).all():
            raise ModelRejected(f"the map of layer `{layer.name}` has numbers that are not finite")
    if (_run_layer(engine, image, len(layers), "no layer").explained >= 0).any():
        raise ModelRejected(f"the graph has more layers than the {len(layers)} of its manifest")


def check_marks(engine: Engine) -> None:
    """Run the map of the first mark, of the best one and of none, where the manifest has marks.

    Raises:
        ModelRejected: the graph fails, or answers with other marks, or with maps of another shape than the manifest
            states or that are not finite.
        WorkerLost: the GPU is gone.
    """
    marks = engine.manifest.marks
    if marks is None:
        return
    none = no_mark(marks.num_marks)
    image = synthetic_images(0, 1, engine.manifest.input_size)
    outputs = _run(engine, image, Question.about(engine.manifest, marks=(0, -1, none)), "the marks")
    if outputs.marks is None or outputs.mark_maps is None or outputs.marked is None:
        raise ModelRejected("the graph answers without marks")
    first, best, *others = outputs.marked[0].tolist()
    if first != 0 or not 0 <= best < none or set(others) != {none}:
        raise ModelRejected(f"the graph marks {outputs.marked[0].tolist()}, not [0, the best one, {none}, …]")
    maps = outputs.mark_maps[0]
    if maps.shape[1:] != marks.grid:
        raise ModelRejected(f"the maps of the marks have the shape {maps.shape[1:]}, not {marks.grid}")
    if not ((maps[:2] >= 0) & np.isfinite(maps[:2])).all() or not ((outputs.marks >= 0) & (outputs.marks <= 1)).all():
        raise ModelRejected("the marks or their maps have numbers out of range")


def _run_layer(engine: Engine, image: npt.NDArray[np.uint8], index: int, what: str) -> Outputs:
    """Return the map of one layer, for the best class of one image."""
    return _run(engine, image, Question.about(engine.manifest, layer=index), what)


def _run(engine: Engine, image: npt.NDArray[np.uint8], question: Question, what: str) -> Outputs:
    try:
        return engine.run(image, question)
    except WorkerLost:
        raise
    except Exception as error:
        # The binding raises its own classes, one a status code, without a common root.
        raise ModelRejected(f"the graph fails at {what}: {error}") from error
