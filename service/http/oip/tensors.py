"""Tensors of the Open Inference Protocol: a request's body → a job, and predictions → the body of its answer.

Source: kserve.github.io/website, "Open Inference Protocol"; triton-inference-server, "Binary Tensor Data Extension"
and "Classification Extension".
"""

import base64
import binascii
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.responses import Response

from model.contract.graph import MAX_MARKS, MAX_TARGETS, no_mark, ranks_of
from model.contract.manifest import Manifest, Marks
from service.decision.novelty import judge
from service.errors import EmptyInput, InvalidOption, MalformedRequest, TooLarge, UnknownClass, UnknownMark
from service.http.answers import first_class
from service.http.negotiation import JSON
from service.http.oip.schemas import HEADER_LENGTH, OCTETS, InferRequest, RequestedOutput, TensorIn
from service.inference.engine import Question
from service.inference.predictor import Prediction
from service.inference.served import ServedModel
from service.inference.targets import checked_layer

_DTYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "BOOL": np.dtype("?"),
}

Array = npt.NDArray[Any]


def inputs_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the tensors that a model takes, as its metadata lists them."""
    side = manifest.input_size
    return [
        _info("image", "UINT8", -1, side, side, 3),
        _info("encoded", "BYTES", -1),
        _info("target", "INT64", -1, -1),
        _info("versus", "INT64", -1, -1),
        _info("layer", "INT64", 1),
        *([_info("mark", "INT64", -1, -1)] if manifest.marks else []),
    ]


def outputs_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the tensors that a model returns, as its metadata lists them."""
    return [
        _info("logits", "FP32", -1, manifest.num_classes),
        _info("probabilities", "FP32", -1, manifest.num_classes),
        *([_info("attention", "FP32", -1, -1, -1)] if manifest.has_attention else []),
        _info("gradcam", "FP32", -1, -1, -1, -1),
        _info("explained", "INT64", -1, -1),
        *([_info("embedding", "FP32", -1, manifest.embedding.size)] if manifest.embedding else []),
        *(_of_novelty() if manifest.novelty else []),
        *(_of_marks(manifest.marks) if manifest.marks else []),
        _info("label", "BYTES", -1),
    ]


def _of_novelty() -> list[dict[str, Any]]:
    """Return the graph's own score, and what `/classify` says of it: its quantile, and whether the photo is known."""
    return [_info("novelty", "FP32", -1), _info("novelty_quantile", "FP32", -1), _info("known", "BOOL", -1)]


def _of_marks(marks: Marks) -> list[dict[str, Any]]:
    return [
        _info("marks", "FP32", -1, marks.num_marks),
        _info("mark_maps", "FP32", -1, -1, *marks.grid),
        _info("marked", "INT64", -1, -1),
    ]


def _info(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


# Requests


@dataclass(frozen=True, slots=True)
class Job:
    """A valid request.

    Attributes:
        request: its JSON.
        images: prepared pixels, uint8 (N, S, S, 3), or N encoded files.
        questions: about each of them, N.
        num_marks: M of the answer; the questions have more, as all questions do.
        outputs: in the order of the answer.
    """

    request: InferRequest
    images: Array | list[bytes]
    questions: list[Question]
    num_marks: int
    outputs: list[RequestedOutput]


def read_job(body: bytes, declared: str | None, manifest: Manifest, max_images: int) -> Job:
    """Read a body of JSON, or of JSON and raw tensors.

    Args:
        body: all of it.
        declared: value of the header with the length of the JSON, None without the binary extension.
        manifest: of the model.
        max_images: most images of one request.

    Raises:
        MalformedRequest: framing, JSON, or a tensor that contradicts itself.
        EmptyInput: no image.
        InvalidOption: a tensor that this model does not accept, or a value out of range.
        TooLarge: too many images.
        UnknownClass: a code that names no class.
        UnknownMark: a code that names no mark.
    """
    if not body:
        raise EmptyInput()
    length = len(body) if declared is None else _json_length(declared, len(body))
    text, raw = body[:length], body[length:]
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise MalformedRequest(f"The JSON is not an inference request: {_where(error)}.") from error
    tensors = dict(_tensors(request, raw))
    images = _images(tensors, manifest, max_images)
    none = manifest.num_classes
    first_rank = np.full((len(images), 1), -1, np.int64)
    target = _codes(tensors.get("target", first_rank), "target", len(images), none - 1, none)
    versus = _codes(tensors.get("versus", np.full_like(target, none)), "versus", len(images), none, none)
    if versus.shape != target.shape:
        raise InvalidOption("`versus` must have the shape of `target`.")
    if (versus == target).any():
        raise InvalidOption("`target` and `versus` are the same class.")
    layer = _layer(tensors.get("layer", np.zeros(1, np.int64)), manifest)
    marks = _marks(tensors.get("mark"), len(images), manifest)
    questions = [
        Question.about(manifest, *codes, layer, marks[row])
        for row, codes in enumerate(zip(target.tolist(), versus.tolist(), strict=True))
    ]
    return Job(request, images, questions, len(marks[0]), _outputs(request, manifest))


def _json_length(declared: str, num_bytes: int) -> int:
    if not (declared.isascii() and declared.isdecimal() and len(declared) < 12 and int(declared) <= num_bytes):
        raise MalformedRequest(f"{HEADER_LENGTH} is not a length within the body.")
    return int(declared)


def _where(error: ValidationError) -> str:
    """Return the place of the first fault; the value sent is not repeated."""
    path = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
    return f"see `{path[:100]}`" if path else "it cannot be parsed"


def _tensors(request: InferRequest, raw: bytes) -> Iterator[tuple[str, Array]]:
    """Yield the tensors by name, as arrays; those of BYTES hold objects."""
    offset, seen = 0, set()
    for tensor in request.inputs:
        if tensor.name in seen:
            raise MalformedRequest("Two inputs have the same name.")
        seen.add(tensor.name)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            yield tensor.name, _from_json(tensor)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(raw) - offset:
            raise MalformedRequest("`binary_data_size` does not fit the body.")
        yield tensor.name, _from_bytes(tensor, raw[offset : offset + size])
        offset += size
    if offset != len(raw):
        raise MalformedRequest("The body is longer than its tensors.")


def _count(shape: list[int]) -> int:
    """Return the number of elements of a shape, which a client may have made up.

    Beside a side of 0 the others are bounded too: numpy refuses a shape whose sides alone exceed its sizes.
    """
    if any(side < 0 for side in shape) or math.prod(side or 1 for side in shape) > 2**31:
        raise MalformedRequest("A shape has a side out of range.")
    return math.prod(shape)


def _from_bytes(tensor: TensorIn, raw: bytes) -> Array:
    count = _count(tensor.shape)
    if tensor.datatype == "BYTES":
        elements = list(_split_elements(raw))
        if len(elements) != count:
            raise MalformedRequest("A tensor's number of elements does not match its shape.")
        return np.array(elements, object)
    dtype = _dtype(tensor)
    if len(raw) != count * dtype.itemsize:
        raise MalformedRequest("A tensor's number of bytes does not match its shape.")
    return np.frombuffer(raw, dtype).reshape(tensor.shape)


def _split_elements(raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor; each follows its length, 4 bytes little-endian."""
    offset = 0
    while offset < len(raw):
        if offset + 4 > len(raw):
            raise MalformedRequest("A BYTES tensor ends within a length.")
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + length > len(raw):
            raise MalformedRequest("A BYTES tensor ends within an element.")
        yield raw[offset : offset + length]
        offset += length


def _from_json(tensor: TensorIn) -> Array:
    count = _count(tensor.shape)
    if tensor.datatype == "BYTES":
        texts = tensor.data if isinstance(tensor.data, list) else []
        if len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise MalformedRequest("A BYTES tensor in JSON is a list of base64 strings, as many as its shape has.")
        return np.array([_from_base64(text) for text in texts], object)
    dtype = _dtype(tensor)
    try:
        values = np.asarray(tensor.data)
    except (ValueError, OverflowError, TypeError) as error:
        raise MalformedRequest("A tensor's data is not a regular list of numbers.") from error
    if values.size != count:
        raise MalformedRequest("A tensor's number of elements does not match its shape.")
    limits = np.iinfo(dtype)
    if values.size and (values.dtype.kind not in "iu" or values.min() < limits.min or values.max() > limits.max):
        raise MalformedRequest(f"A tensor's data does not fit {tensor.datatype}.")
    return values.astype(dtype).reshape(tensor.shape)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest("An element of `encoded` is not base64.") from error


def _dtype(tensor: TensorIn) -> np.dtype[Any]:
    if tensor.datatype not in ("UINT8", "INT64"):
        raise InvalidOption("The inputs are UINT8, INT64 or BYTES; see the model's metadata.")
    return _DTYPES[tensor.datatype]


def _images(tensors: dict[str, Array], manifest: Manifest, max_images: int) -> Array | list[bytes]:
    if set(tensors) - {tensor["name"] for tensor in inputs_of(manifest)}:
        raise InvalidOption("An input is not one of this model; see the model's metadata.")
    if ("image" in tensors) == ("encoded" in tensors):
        raise InvalidOption("Send either `image` or `encoded`.")
    side = manifest.input_size
    images = tensors["image"] if "image" in tensors else tensors["encoded"]
    if "encoded" in tensors and images.dtype != object:
        raise InvalidOption("`encoded` is BYTES.")
    if "image" in tensors and (images.dtype != np.uint8 or images.shape[1:] != (side, side, 3)):
        raise InvalidOption(f"`image` is UINT8 of shape [N, {side}, {side}, 3].")
    if not len(images):
        raise EmptyInput()
    if len(images) > max_images:
        raise TooLarge(f"A request may hold up to {max_images} images.")
    return images.tolist() if images.dtype == object else images


def _codes(tensor: Array, name: str, rows: int, highest: int, lowest: int) -> Array:
    if tensor.dtype != np.int64 or tensor.ndim != 2 or len(tensor) != rows:
        raise InvalidOption(f"`{name}` is INT64 of shape [N, T].")
    if not 1 <= tensor.shape[1] <= MAX_TARGETS:
        raise InvalidOption(f"`{name}` may name 1 to {MAX_TARGETS} classes an image.")
    if tensor.min() < -lowest or tensor.max() > highest:
        raise UnknownClass(f"`{name}` goes from {-lowest} to {highest}.")
    return tensor


def _marks(tensor: Array | None, rows: int, manifest: Manifest) -> list[list[int]]:
    """Return the codes of marks of each image: as requested, else one that is none."""
    if manifest.marks is None:  # a tensor `mark` has been refused with the other unknown names
        return [[]] * rows
    none = no_mark(manifest.marks.num_marks)
    if tensor is None:
        return [[none]] * rows
    if tensor.dtype != np.int64 or tensor.ndim != 2 or len(tensor) != rows:
        raise InvalidOption("`mark` is INT64 of shape [N, M].")
    if not 1 <= tensor.shape[1] <= MAX_MARKS:
        raise InvalidOption(f"`mark` may name 1 to {MAX_MARKS} marks an image.")
    last_rank = ranks_of(manifest.marks.num_marks)
    if tensor.min() < -last_rank or tensor.max() > none:
        raise UnknownMark(f"`mark` goes from {-last_rank} to {none}.")
    codes: list[list[int]] = tensor.tolist()
    return codes


def _layer(tensor: Array, manifest: Manifest) -> int:
    if tensor.dtype != np.int64 or tensor.size != 1:
        raise InvalidOption("`layer` is one INT64.")
    return checked_layer(tensor.item(), manifest)


def _outputs(request: InferRequest, manifest: Manifest) -> list[RequestedOutput]:
    names = [tensor["name"] for tensor in outputs_of(manifest)]
    if not request.outputs:
        return [RequestedOutput(name=name) for name in names]
    if any(output.name not in names for output in request.outputs):
        raise InvalidOption("An output is not one of this model; see the model's metadata.")
    if len({output.name for output in request.outputs}) != len(request.outputs):
        raise InvalidOption("An output is named twice.")
    for output in request.outputs:
        count = output.parameters.get("classification", 0)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InvalidOption("`classification` is a whole number, not negative.")
        if count and output.name not in ("logits", "probabilities"):
            raise InvalidOption("`classification` is for `logits` and `probabilities`.")
    return request.outputs


# Answers


def answer(served: ServedModel, job: Job, predictions: list[Prediction]) -> Response:
    """Return the outputs of a job as JSON, or as JSON and raw tensors."""
    outputs, chunks = [], []
    all_binary = job.request.parameters.get("binary_data_output") is True
    for output in job.outputs:
        values = _values(output, served.manifest, predictions)
        if output.name in ("mark_maps", "marked"):
            values = values[:, : job.num_marks]
        members: dict[str, Any] = {"name": output.name, "shape": list(values.shape), "datatype": _datatype(values)}
        if output.parameters.get("binary_data", all_binary) is True:
            chunk = _to_bytes(values)
            members["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            members["data"] = values.ravel().tolist()
        outputs.append(members)
    head: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if job.request.id is not None:
        head["id"] = job.request.id
    text = to_json(head | {"outputs": outputs}, inf_nan_mode="null")
    if not chunks:
        return Response(text, media_type=JSON)
    return Response(b"".join((text, *chunks)), headers={HEADER_LENGTH: str(len(text))}, media_type=OCTETS)


def _values(output: RequestedOutput, manifest: Manifest, predictions: list[Prediction]) -> Array:
    """Return an output as an array; strings as objects."""
    if output.name == "label":
        labels = [first_class(prediction)[0] for prediction in predictions]
        return np.array(labels, dtype=object)
    if output.name in ("known", "novelty_quantile"):
        judged = [one for prediction in predictions if (one := judge(prediction.novelty, manifest.novelty))]
        if output.name == "known":
            return np.array([one.known for one in judged])
        return np.array([one.quantile for one in judged], np.float32)
    values = np.stack([np.asarray(getattr(prediction, output.name)) for prediction in predictions])
    count = int(output.parameters.get("classification", 0))
    return _ranked(values, manifest, count) if count else values


def _ranked(values: Array, manifest: Manifest, count: int) -> Array:
    """Return the first classes as `value:index:label`, the highest first; Triton's classification extension."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    rows = [[f"{row[i]:.6f}:{i}:{manifest.labels[i]}" for i in best] for row, best in zip(values, order, strict=True)]
    return np.array(rows, dtype=object)


def _datatype(values: Array) -> str:
    return {"O": "BYTES", "f": "FP32", "i": "INT64", "b": "BOOL"}[values.dtype.kind]


def _to_bytes(values: Array) -> bytes:
    if values.dtype.kind != "O":
        raw: bytes = values.astype(_DTYPES[_datatype(values)], copy=False).tobytes()
        return raw
    elements = [text.encode() for text in values.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
