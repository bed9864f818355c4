"""What clients of the Open Inference Protocol send and get, as pydantic models, and its entries in the document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.http.api import openapi
from service.http.api.schemas import EXAMPLE_IMAGE
from service.http.negotiation import JSON

HEADER_LENGTH = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"
EXTENSIONS = ["binary_tensor_data", "classification"]

Parameters = dict[str, bool | int | float | str]


class TensorIn(BaseModel):
    """One input tensor."""

    name: str = Field(max_length=64, examples=["encoded"])
    shape: list[int] = Field(max_length=8, examples=[[1]])
    datatype: str = Field(max_length=16, examples=["BYTES"])
    parameters: Parameters = Field(default_factory=dict)
    data: Any = Field(None, description="Values, flat or nested; files as base64. Absent with the binary extension.")


class RequestedOutput(BaseModel):
    """One output that the request names."""

    name: str = Field(max_length=64, examples=["probabilities"])
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(BaseModel):
    """A request to run a model."""

    id: str | None = Field(None, max_length=256)
    parameters: Parameters = Field(default_factory=dict)
    inputs: list[TensorIn] = Field(min_length=1, max_length=8)
    outputs: list[RequestedOutput] | None = Field(None, max_length=16, description="All, where absent or empty.")


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
    extensions: list[str] = Field(examples=[EXTENSIONS])


class Health(BaseModel):
    """An answer of the protocol's probes."""

    live: bool | None = Field(None, examples=[True])
    ready: bool | None = Field(None, examples=[True])


_FILE = {"schema": {"type": "string", "format": "binary"}}
_INFER_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {"$ref": "#/components/schemas/InferRequest"},
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
            OCTETS: _FILE
            | {
                "example": "JSON, then raw tensors; `Inference-Header-Content-Length` is the length of the JSON.",
            },
        },
    },
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "description": "Binary extension: length of the JSON at the start of the body, bytes.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 2**31},
        },
        openapi.TIMEOUT,
    ],
}


def infer_operation(name: str) -> dict[str, Any]:
    """Return the options of a route that runs a model."""
    answer = {"description": "The outputs.", "model": InferResponse, "content": {OCTETS: _FILE}}
    return openapi.operation(name, answer, *openapi.WORK_PROBLEMS, **_INFER_REQUEST)


def read_operation(name: str, description: str, model: type[BaseModel], *statuses: int) -> dict[str, Any]:
    """Return the options of a route that answers with one model."""
    return openapi.operation(name, {"description": description, "model": model}, *statuses)


def model_operation(name: str, description: str, model: type[BaseModel]) -> dict[str, Any]:
    """Return the options of a route that answers about one served model."""
    return read_operation(name, description, model, 401, 404, 422, 503)  # without 422 FastAPI adds one of its own
