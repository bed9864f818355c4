"""The Open Inference Protocol v2 under `/v2`, so that KServe, Triton and their clients can talk to this service.

Tensors come as JSON or by the binary extension (raw little-endian bytes behind the JSON). The model's input is
`image`, pixels prepared by the client, or `encoded`, whole image files that go the way of `/classify`; the other
inputs and the outputs are those of the graph.

Source: kserve.github.io/website, "Open Inference Protocol"; triton-inference-server, "Binary Tensor Data Extension"
and "Classification Extension".
"""

import asyncio
import base64
import binascii
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from model.contract.graph import MAX_TARGETS
from model.contract.manifest import Manifest
from service import openapi
from service.answers import first_class
from service.errors import (
    EmptyInput,
    InvalidOption,
    MalformedRequest,
    NotReady,
    TooLarge,
    UnknownClass,
    UnsupportedImageType,
)
from service.metrics import service_version
from service.negotiation import JSON
from service.predictor import Prediction
from service.registry import ServedModel
from service.schemas import EXAMPLE_IMAGE
from service.services import Services, services_of
from service.targets import checked_layer
from service.telemetry import Exchange, exchange_of
from service.uploads import read_body

HEADER_LENGTH = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"
_LARGE_JSON = 64 * 1024
"""JSON longer than this is parsed in a thread, so that the loop goes on."""
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
_EXTENSIONS = ["binary_tensor_data", "classification"]

Array = npt.NDArray[Any]
Parameters = dict[str, bool | int | float | str]


class TensorIn(BaseModel):
    """One input tensor."""

    name: str = Field(max_length=64, examples=["encoded"])
    shape: list[int] = Field(max_length=8, examples=[[1]])
    datatype: str = Field(max_length=16, examples=["BYTES"])
    parameters: Parameters = Field(default_factory=dict)
    data: Any = Field(None, description="Values, flat or nested; files as base64. Absent with the binary extension.")


class OutputWish(BaseModel):
    """One output that is asked for."""

    name: str = Field(max_length=64, examples=["probabilities"])
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(BaseModel):
    """A request to run a model."""

    id: str | None = Field(None, max_length=256)
    parameters: Parameters = Field(default_factory=dict)
    inputs: list[TensorIn] = Field(min_length=1, max_length=8)
    outputs: list[OutputWish] | None = Field(None, max_length=16, description="All, where absent or empty.")


class TensorOut(BaseModel):
    """One output tensor."""

    name: str = Field(examples=["probabilities"])
    shape: list[int] = Field(examples=[[1, 3]])
    datatype: str = Field(examples=["FP32"])
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, description="Flat.", examples=[[0.7, 0.2, 0.1]])


class InferResponse(BaseModel):
    """What a model answers."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(examples=["cub50"])
    model_version: str = Field(examples=["1"])
    id: str | None = None
    outputs: list[TensorOut]


class TensorInfo(BaseModel):
    """Shape and type of a tensor; −1 for any length."""

    name: str = Field(examples=["image"])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(examples=[[-1, 224, 224, 3]])


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str = Field(examples=["cub50"])
    versions: list[str] = Field(examples=[["1"]])
    platform: Literal["onnxruntime_onnx"] = "onnxruntime_onnx"
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class ServerMetadata(BaseModel):
    """What the server speaks."""

    name: Literal["fieldmark"] = "fieldmark"
    version: str = Field(examples=["1.0.0"])
    extensions: list[str] = Field(examples=[_EXTENSIONS])


class Health(BaseModel):
    """An answer of the protocol's probes."""

    live: bool | None = Field(None, examples=[True])
    ready: bool | None = Field(None, examples=[True])


SCHEMAS: tuple[type[BaseModel], ...] = (InferRequest, InferResponse, ModelMetadata, ServerMetadata, Health)

router = APIRouter(prefix="/v2", tags=["inference protocol"])


def _reads(operation: str, description: str, model: type[BaseModel], *statuses: int) -> dict[str, Any]:
    return {
        "operation_id": operation,
        "response_class": Response,
        "responses": {200: openapi.json_answer(description, model), **openapi.problems(*statuses, 500)},
    }


def _keyed(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"openapi_extra": {"security": openapi.OPEN_OR_KEY, **entry.get("openapi_extra", {})}}


_INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": openapi.ref(InferRequest),
                "examples": {
                    "encoded": {
                        "summary": "One image file",
                        "value": {
                            "inputs": [{"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [EXAMPLE_IMAGE]}],
                            "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
                        },
                    }
                },
            },
            OCTETS: {
                "schema": {"type": "string", "format": "binary"},
                "example": "JSON, then raw tensors; `Inference-Header-Content-Length` is the length of the JSON.",
            },
        },
    },
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "description": "Binary extension: length of the JSON at the body's begin, bytes.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 2**31},
        },
        openapi.TIMEOUT,
    ],
}
_INFER: dict[str, Any] = _keyed(
    {
        "response_class": Response,
        "responses": {
            200: {
                **openapi.json_answer("The outputs.", InferResponse),
                "content": {
                    JSON: {"schema": openapi.ref(InferResponse)},
                    OCTETS: {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **openapi.problems(*openapi.WORK_PROBLEMS),
        },
        "openapi_extra": _INFER_BODY,
    }
)


@router.get("", **_keyed(_reads("v2_server", "What the server speaks.", ServerMetadata, 401)))
async def server_metadata() -> Response:
    """Tell name, version and extensions of the server."""
    return _json({"name": "fieldmark", "version": service_version(), "extensions": _EXTENSIONS})


@router.get("/health/live", **_reads("v2_live", "The server runs.", Health))
async def live() -> Response:
    """Tell that the server runs."""
    return _json({"live": True})


@router.get("/health/ready", **_reads("v2_ready", "Models are loaded and warm.", Health, 503))
async def ready(request: Request) -> Response:
    """Tell whether models are loaded and warm."""
    if not services_of(request).registry.ready:
        raise NotReady()
    return _json({"ready": True})


@router.get("/models/{model}", **_keyed(_reads("v2_model", "The model's tensors.", ModelMetadata, 401, 404, 503)))
@router.get(
    "/models/{model}/versions/{version}",
    **_keyed(_reads("v2_model_version", "The model's tensors.", ModelMetadata, 401, 404, 503)),
)
async def model_metadata(request: Request, model: str, version: str | None = None) -> Response:
    """Tell what a model takes and gives."""
    registry = services_of(request).registry
    served = registry.get(model, version)
    versions = sorted((one.version for one in registry.models() if one.name == model), key=int)
    return _json(
        {
            "name": served.name,
            "versions": versions,
            "platform": "onnxruntime_onnx",
            "inputs": _inputs(served.manifest),
            "outputs": _outputs(served.manifest),
        }
    )


@router.get("/models/{model}/ready", **_keyed(_reads("v2_model_ready", "It is ready.", Health, 401, 404, 503)))
@router.get(
    "/models/{model}/versions/{version}/ready",
    **_keyed(_reads("v2_model_version_ready", "It is ready.", Health, 401, 404, 503)),
)
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """Tell whether a model is loaded and warm."""
    registry = services_of(request).registry
    registry.get(model, version)
    if not registry.ready:
        raise NotReady()
    return _json({"ready": True})


@router.post("/models/{model}/infer", operation_id="v2_infer", **_INFER)
@router.post("/models/{model}/versions/{version}/infer", operation_id="v2_infer_version", **_INFER)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Run a model on prepared pixels (`image`) or on image files (`encoded`), one or many."""
    services, exchange = services_of(request), exchange_of(request.scope)
    served = services.registry.get(model, version)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedImageType("Send the request as it is, without a Content-Encoding.")
    body = await read_body(request.receive)
    exchange.bytes_in = len(body)
    declared = request.headers.get(HEADER_LENGTH)
    max_images = services.settings.max_files
    if len(body) > _LARGE_JSON:
        job = await asyncio.to_thread(read_job, body, declared, served.manifest, max_images)
    else:
        job = read_job(body, declared, served.manifest, max_images)
    predictions = await _predict(services, exchange, served, job, request.scope["state"].get("deadline"))
    return _answer(served, job, predictions)


def _json(members: dict[str, Any]) -> Response:
    return Response(to_json(members), media_type=JSON)


def _inputs(manifest: Manifest) -> list[dict[str, Any]]:
    side = manifest.input_size
    return [
        {"name": "image", "datatype": "UINT8", "shape": [-1, side, side, 3]},
        {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
        {"name": "target", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "versus", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "layer", "datatype": "INT64", "shape": [1]},
    ]


def _outputs(manifest: Manifest) -> list[dict[str, Any]]:
    classes = manifest.num_classes
    found = [
        {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "attention", "datatype": "FP32", "shape": [-1, -1, -1]},
        {"name": "gradcam", "datatype": "FP32", "shape": [-1, -1, -1, -1]},
        {"name": "explained", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    return [tensor for tensor in found if manifest.has_attention or tensor["name"] != "attention"]


# Requests


@dataclass(frozen=True, slots=True)
class Job:
    """A request that has been read and found sound.

    Attributes:
        request: its JSON.
        images: prepared pixels, uint8 (N, S, S, 3), or N encoded files.
        target: class codes, int64 (N, T).
        versus: class codes, int64 (N, T), K for none.
        layer: index into the manifest's layers.
        wishes: outputs in the order of the answer.
    """

    request: InferRequest
    images: Array | list[bytes]
    target: Array
    versus: Array
    layer: int
    wishes: list[OutputWish]


def read_job(body: bytes, declared: str | None, manifest: Manifest, max_images: int) -> Job:
    """Read a body of JSON, or of JSON and raw tensors.

    Args:
        body: all of it.
        declared: value of the header with the length of the JSON, None without the binary extension.
        manifest: of the model asked.
        max_images: most images of one request.

    Raises:
        MalformedRequest: framing, JSON, or a tensor that contradicts itself.
        EmptyInput: no image.
        InvalidOption: a tensor that this model does not take, or out of range.
        TooLarge: too many images.
        UnknownClass: a code that names no class.
    """
    text, raw = _split(body, declared)
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise MalformedRequest(f"The JSON is not an inference request: {_where(error)}.") from error
    tensors = dict(_tensors(request, raw))
    images = _images(tensors, manifest, max_images)
    none = manifest.num_classes
    target = _codes(tensors.get("target"), "target", len(images), none - 1, none)
    if target is None:
        target = np.full((len(images), 1), -1, np.int64)
    versus = _codes(tensors.get("versus"), "versus", len(images), none, none)
    if versus is None:
        versus = np.full_like(target, none)
    if versus.shape != target.shape:
        raise InvalidOption("`versus` must have the shape of `target`.")
    if (versus == target).any():
        raise InvalidOption("`target` and `versus` are the same class.")
    layer = _layer(tensors.get("layer"), manifest)
    return Job(request, images, target, versus, layer, _wishes(request, manifest))


def _split(body: bytes, declared: str | None) -> tuple[bytes, bytes]:
    if not body:
        raise EmptyInput()
    if declared is None:
        return body, b""
    if not (declared.isascii() and declared.isdecimal() and len(declared) < 12 and int(declared) <= len(body)):
        raise MalformedRequest(f"{HEADER_LENGTH} is not a length within the body.")
    return body[: int(declared)], body[int(declared) :]


def _where(error: ValidationError) -> str:
    """Return the place of the first fault, without the value."""
    path = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
    return f"see `{path[:100]}`" if path else "it cannot be parsed"


def _tensors(request: InferRequest, raw: bytes) -> Iterator[tuple[str, Array | list[bytes]]]:
    """Yield the tensors by name, as arrays or, for BYTES, lists."""
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
    """Return the number of elements; the shape is a client's and may be absurd.

    Beside a side of 0 the others are bounded too: numpy refuses a shape whose sides alone exceed its sizes.
    """
    if any(side < 0 for side in shape) or math.prod(side or 1 for side in shape) > 2**31:
        raise MalformedRequest("A shape has a side out of range.")
    return math.prod(shape)


def _from_bytes(tensor: TensorIn, raw: bytes) -> Array | list[bytes]:
    count = _count(tensor.shape)
    if tensor.datatype == "BYTES":
        elements = list(_split_elements(raw))
        if len(elements) != count:
            raise MalformedRequest("A tensor has another number of elements than its shape says.")
        return elements
    dtype = _dtype(tensor)
    if len(raw) != count * dtype.itemsize:
        raise MalformedRequest("A tensor has another number of bytes than its shape says.")
    return np.frombuffer(raw, dtype).reshape(tensor.shape)


def _split_elements(raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor: each behind its length, 4 bytes little-endian."""
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


def _from_json(tensor: TensorIn) -> Array | list[bytes]:
    count = _count(tensor.shape)
    if tensor.datatype == "BYTES":
        texts = tensor.data if isinstance(tensor.data, list) else []
        if len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise MalformedRequest("A BYTES tensor in JSON is a list of base64 strings, as many as its shape says.")
        return [_from_base64(text) for text in texts]
    dtype = _dtype(tensor)
    try:
        values = np.asarray(tensor.data)
    except (ValueError, OverflowError, TypeError) as error:
        raise MalformedRequest("A tensor's data is not a regular list of numbers.") from error
    if values.size != count:
        raise MalformedRequest("A tensor has another number of elements than its shape says.")
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


def _images(tensors: dict[str, Array | list[bytes]], manifest: Manifest, max_images: int) -> Array | list[bytes]:
    unknown = set(tensors) - {"image", "encoded", "target", "versus", "layer"}
    if unknown:
        raise InvalidOption("An input is not one of this model; see the model's metadata.")
    if ("image" in tensors) == ("encoded" in tensors):
        raise InvalidOption("Send either `image` or `encoded`.")
    images = tensors["image"] if "image" in tensors else tensors["encoded"]
    if "encoded" in tensors and not isinstance(images, list):
        raise InvalidOption("`encoded` is BYTES.")
    if "image" in tensors:
        side = manifest.input_size
        if isinstance(images, list) or images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise InvalidOption(f"`image` is UINT8 of shape [N, {side}, {side}, 3].")
    if not len(images):
        raise EmptyInput()
    if len(images) > max_images:
        raise TooLarge(f"A request may hold up to {max_images} images.")
    return images


def _codes(tensor: Array | list[bytes] | None, name: str, rows: int, highest: int, lowest: int) -> Array | None:
    if tensor is None:
        return None
    if isinstance(tensor, list) or tensor.dtype != np.int64 or tensor.ndim != 2 or len(tensor) != rows:
        raise InvalidOption(f"`{name}` is INT64 of shape [N, T].")
    if not 1 <= tensor.shape[1] <= MAX_TARGETS:
        raise InvalidOption(f"`{name}` may name 1 to {MAX_TARGETS} classes an image.")
    if tensor.min() < -lowest or tensor.max() > highest:
        raise UnknownClass(f"`{name}` goes from {-lowest} to {highest}.")
    return tensor


def _layer(tensor: Array | list[bytes] | None, manifest: Manifest) -> int:
    if tensor is None:
        return 0
    if isinstance(tensor, list) or tensor.dtype != np.int64 or tensor.size != 1:
        raise InvalidOption("`layer` is one INT64.")
    return checked_layer(int(tensor.reshape(())), manifest)


def _wishes(request: InferRequest, manifest: Manifest) -> list[OutputWish]:
    names = [tensor["name"] for tensor in _outputs(manifest)]
    if not request.outputs:
        return [OutputWish(name=name) for name in names]
    if any(wish.name not in names for wish in request.outputs):
        raise InvalidOption("An output is not one of this model; see the model's metadata.")
    if len({wish.name for wish in request.outputs}) != len(request.outputs):
        raise InvalidOption("An output is asked for twice.")
    for wish in request.outputs:
        _check_classification(wish)
    return request.outputs


def _check_classification(wish: OutputWish) -> None:
    count = wish.parameters.get("classification", 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InvalidOption("`classification` is a whole number, not negative.")
    if count and wish.name not in ("logits", "probabilities"):
        raise InvalidOption("`classification` is for `logits` and `probabilities`.")


# Answers


async def _predict(
    services: Services, exchange: Exchange, served: ServedModel, job: Job, deadline: float | None
) -> list[Prediction]:
    """Run all images side by side; the first failure fails the request, as a tensor has no place for a problem."""
    lane = "explain" if any(wish.name == "gradcam" for wish in job.wishes) else "classify"
    has_versus = bool((job.versus != served.manifest.num_classes).any())

    async def predict(index: int) -> Prediction:
        options: dict[str, Any] = {
            "targets": job.target[index].tolist(),
            "versus": job.versus[index].tolist() if has_versus else None,
            "layer": job.layer,
            "lane": lane,
            "deadline": deadline,
        }
        image = job.images[index]
        if isinstance(image, bytes):
            prediction = await services.predictor.predict(served, image, **options)
        else:
            prediction = await services.predictor.predict_array(served, image, **options)
        services.note(exchange, prediction, *first_class(prediction))
        _check_contrast(prediction, options["versus"] or [])
        return prediction

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(predict(index)) for index in range(len(job.images))]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _check_contrast(prediction: Prediction, versus: Sequence[int]) -> None:
    """Refuse a contrast of a class with itself, which only the image can tell where ranks are asked for."""
    ranked = np.argsort(-prediction.logits, kind="stable")
    for explained, code in zip(prediction.explained.tolist(), versus, strict=False):
        against = int(ranked[-code - 1]) if code < 0 else code
        if against == explained:
            raise InvalidOption("`target` and `versus` are the same class of an image.")


def _answer(served: ServedModel, job: Job, predictions: list[Prediction]) -> Response:
    outputs, chunks = [], []
    all_binary = job.request.parameters.get("binary_data_output") is True
    for wish in job.wishes:
        values = _values(wish, served.manifest, predictions)
        members: dict[str, Any] = {"name": wish.name, "shape": list(values.shape), "datatype": _datatype(values)}
        if wish.parameters.get("binary_data", all_binary) is True:
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


def _values(wish: OutputWish, manifest: Manifest, predictions: list[Prediction]) -> Array:
    """Return an output as an array; strings as objects."""
    if wish.name == "label":
        labels = [first_class(prediction)[0] for prediction in predictions]
        return np.array(labels, dtype=object)
    values = np.stack([np.asarray(getattr(prediction, wish.name)) for prediction in predictions])
    count = int(wish.parameters.get("classification", 0))
    return _ranked(values, manifest, count) if count else values


def _ranked(values: Array, manifest: Manifest, count: int) -> Array:
    """Return the first classes as `value:index:label`, the highest first; Triton's classification extension."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    rows = [[f"{row[i]:.6f}:{i}:{manifest.labels[i]}" for i in best] for row, best in zip(values, order, strict=True)]
    return np.array(rows, dtype=object)


def _datatype(values: Array) -> str:
    return {"O": "BYTES", "f": "FP32", "i": "INT64"}[values.dtype.kind]


def _to_bytes(values: Array) -> bytes:
    if values.dtype.kind != "O":
        raw: bytes = values.astype(_DTYPES[_datatype(values)], copy=False).tobytes()
        return raw
    elements = [text.encode() for text in values.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
