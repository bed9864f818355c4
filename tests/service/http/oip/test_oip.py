"""The Open Inference Protocol, spoken by Triton's public client and by hand."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from service.http.oip.routes import HEADER_LENGTH
from tests.service.running import Running
from tests.service.tiny_model import LABELS, NO_MARK, SIDE, tiny_logits

INFER = "/v2/models/tiny/infer"


@pytest.fixture
def triton_client(tiny_server: Running) -> Iterator[triton.InferenceServerClient]:
    """Return Triton's client of the tiny model's server."""
    client = triton.InferenceServerClient(f"127.0.0.1:{tiny_server.port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Return two images of noise."""
    return np.random.default_rng(5).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)


def tensor(name: str, values: np.ndarray, *, binary: bool) -> triton.InferInput:
    """Return an input of Triton's client."""
    datatype = {"u": "UINT8", "i": "INT64", "O": "BYTES"}[values.dtype.kind]
    found = triton.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def test_health_and_metadata(triton_client: triton.InferenceServerClient) -> None:
    """Triton's client reads health and metadata of server and model."""
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("tiny")
    assert triton_client.is_model_ready("tiny", "1")
    assert not triton_client.is_model_ready("huge")
    assert "fieldmark" == triton_client.get_server_metadata()["name"]
    metadata = triton_client.get_model_metadata("tiny", "1")
    assert ["1"] == metadata["versions"]
    assert ["image", "encoded", "target", "versus", "layer"] == [one["name"] for one in metadata["inputs"]]
    assert [-1, SIDE, SIDE, 3] == metadata["inputs"][0]["shape"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("version", ["", "1"])
def test_tensors(triton_client: triton.InferenceServerClient, images: np.ndarray, binary: bool, version: str) -> None:
    """Prepared pixels get the graph's outputs, in JSON and by the binary extension."""
    names = ["logits", "probabilities", "attention", "gradcam", "explained"]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    target = np.array([[-1, 0], [2, 3]])
    inputs = [tensor("image", images, binary=binary), tensor("target", target, binary=binary)]
    result = triton_client.infer("tiny", inputs, model_version=version, outputs=outputs, request_id="7")
    np.testing.assert_allclose(tiny_logits(images), result.as_numpy("logits"), rtol=1e-5)
    np.testing.assert_allclose(np.ones(2), result.as_numpy("probabilities").sum(axis=1), rtol=1e-5)
    assert (2, 2, SIDE, SIDE) == result.as_numpy("gradcam").shape
    assert [2, 3] == result.as_numpy("explained")[1].tolist()
    assert "7" == result.get_response()["id"]


@pytest.mark.parametrize("binary", [True, False])
def test_encoded_images(
    triton_client: triton.InferenceServerClient, red_png: bytes, blue_jpeg: bytes, binary: bool
) -> None:
    """Whole image files get their labels, as raw elements and as base64 in JSON."""
    files = [red_png, blue_jpeg] if binary else [base64.b64encode(red_png), base64.b64encode(blue_jpeg)]
    result = triton_client.infer("tiny", [tensor("encoded", np.array(files, dtype=object), binary=binary)])
    assert [b"Red bird", b"Blue bird"] == [
        label if isinstance(label, bytes) else label.encode() for label in result.as_numpy("label").tolist()
    ]


def test_classification_extension(triton_client: triton.InferenceServerClient, red_png: bytes) -> None:
    """Triton's classification extension names the first classes."""
    output = triton.InferRequestedOutput("probabilities", class_count=2)
    files = np.array([red_png], dtype=object)
    result = triton_client.infer("tiny", [tensor("encoded", files, binary=True)], outputs=[output])
    first = result.as_numpy("probabilities")[0][0].decode()
    assert first.endswith(":0:Red bird")
    assert (1, 2) == result.as_numpy("probabilities").shape


def test_errors_reach_the_client(triton_client: triton.InferenceServerClient) -> None:
    """Triton's client finds the message of a problem."""
    files = np.array([b"no image"], dtype=object)
    with pytest.raises(InferenceServerException, match="no known image format"):
        triton_client.infer("tiny", [tensor("encoded", files, binary=True)])
    with pytest.raises(InferenceServerException, match="not served"):
        triton_client.get_model_metadata("huge")


def request_with(**changes: Any) -> dict[str, Any]:
    """Return a valid request for one grey image, with changes to its only input."""
    image = {"name": "image", "shape": [1, SIDE, SIDE, 3], "datatype": "UINT8", "data": [128] * (SIDE * SIDE * 3)}
    return {"inputs": [image | changes]}


def also(*tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the valid request with further inputs."""
    return {"inputs": [*request_with()["inputs"], *tensors]}


def int64(name: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    """Return an INT64 tensor in JSON."""
    return {"name": name, "shape": shape, "datatype": "INT64", "data": data}


BROKEN: list[tuple[dict[str, Any], int]] = [
    ({}, 400),
    ({"inputs": []}, 400),
    (request_with(shape=[2, SIDE, SIDE, 3]), 400),
    (request_with(shape=[-1, SIDE, SIDE, 3]), 400),
    (request_with(shape=[2**31] * 8), 400),
    (request_with(shape=[0, 2**31, 2**31, 2**31], data=[]), 400),
    (also(int64("target", [0, 2**31, 2**31], [])), 400),
    (request_with(data=[256] * (SIDE * SIDE * 3)), 400),
    (request_with(data=[0.5] * (SIDE * SIDE * 3)), 400),
    (request_with(data=[[1, 2], [3]]), 400),
    (request_with(data=None), 400),
    (request_with(parameters={"binary_data_size": 10}), 400),
    (request_with(datatype="FP32"), 422),
    (request_with(shape=[1, 3, SIDE, SIDE]), 422),
    (request_with(shape=[0, SIDE, SIDE, 3], data=[]), 400),
    (request_with(name="picture"), 422),
    (request_with() | {"outputs": [{"name": "nothing"}]}, 422),
    (request_with() | {"outputs": [{"name": "gradcam", "parameters": {"classification": 2}}]}, 422),
    (request_with() | {"outputs": [{"name": "logits", "parameters": {"classification": -2}}]}, 422),
    (request_with() | {"outputs": [{"name": "logits", "parameters": {"classification": "2"}}]}, 422),
    (request_with() | {"outputs": [{"name": "logits", "parameters": {"classification": True}}]}, 422),
    (request_with() | {"outputs": [{"name": "logits"}, {"name": "logits"}]}, 422),
    (also(request_with()["inputs"][0]), 400),
    (also({"name": "encoded", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}), 422),
    (also(int64("target", [1, 1], [4])), 422),
    (also(int64("target", [1, 1], [-5])), 422),
    (also(int64("target", [1, 1], [-(2**63)])), 422),
    (also(int64("target", [1, 1], [2**63])), 400),
    (also(int64("target", [1, 1], [10**40])), 400),
    (also(int64("target", [1, 1], ["\u0663"])), 400),
    (also(int64("target", [1, 1], [True])), 400),
    (also(int64("target", [1, 0], [])), 422),
    (also(int64("target", [1, 9], [0] * 9)), 422),
    (also(int64("target", [1], [0])), 422),
    (also(int64("target", [2, 1], [0, 1])), 422),
    (also(int64("target", [1, 1], [0]), int64("target", [1, 1], [1])), 400),
    (also(int64("target", [1, 1], [0]), int64("versus", [1, 1], [0])), 422),
    (also(int64("target", [1, 2], [1, -2]), int64("versus", [1, 2], [4, -2])), 422),
    (also(int64("target", [1, 1], [0]), int64("versus", [1, 2], [1, 2])), 422),
    (also(int64("target", [1, 2], [0, 1]), int64("versus", [1, 1], [2])), 422),
    (also(int64("versus", [1, 1], [5])), 422),
    (also(int64("versus", [1, 1], [-5])), 422),
    (also(int64("layer", [2], [0, 0])), 422),
    (also(int64("layer", [0], [])), 422),
    (also(int64("layer", [1], [1])), 422),
    ({"inputs": [{"name": "encoded", "shape": [1], "datatype": "BYTES", "data": ["not base64"]}]}, 400),
    ({"inputs": [{"name": "encoded", "shape": [2], "datatype": "BYTES", "data": ["AAAA"]}]}, 400),
    ({"inputs": [{"name": "encoded", "shape": [40], "datatype": "BYTES", "data": ["AAAA"] * 40}]}, 413),
]  # fmt: skip


@pytest.mark.parametrize(("request_json", "status"), BROKEN)
def test_broken_requests(tiny_server: Running, client: httpx.Client, request_json: dict[str, Any], status: int) -> None:
    """Whatever contradicts itself or the model gets a problem with a message in `error`, before the model runs."""
    runs = tiny_server.runs()
    answer = client.post(INFER, json=request_json)
    assert runs == tiny_server.runs()
    assert (status, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    assert answer.json()["detail"] == answer.json()["error"]


def test_a_contrast_that_only_the_image_can_refuse(client: httpx.Client) -> None:
    """The class of a rank turns out to be the other class: of colours in equal parts, the first is the likeliest."""
    for target, versus in ((-1, 0), (0, -1)):
        request = also(int64("target", [1, 1], [target]), int64("versus", [1, 1], [versus]))
        answer = client.post(INFER, json=request)
        assert (422, "invalid_option") == (answer.status_code, answer.json()["code"])


def test_no_outputs_named_are_all(client: httpx.Client) -> None:
    """An empty list of outputs means all, as in Triton."""
    answers = [client.post(INFER, json=one).json() for one in (request_with(), request_with() | {"outputs": []})]
    assert answers[0] == answers[1]


def test_unknown_layer(client: httpx.Client) -> None:
    """A layer is an index here, as in the graph; one that does not exist is answered with the names."""
    answer = client.post(INFER, json=also(int64("layer", [1], [-1])))
    assert (422, True) == (answer.status_code, "`pixels`" in answer.json()["error"])


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "x"),
        (json.dumps(request_with(data=None, parameters={"binary_data_size": 191})).encode() + b"\0" * 191, None),
        (b"\xff", "0"),
        (b"[" * 100_000, None),
        (b"", None),
    ],
)
def test_broken_framing(client: httpx.Client, body: bytes, length: str | None) -> None:
    """Broken framing is the client's fault."""
    answer = client.post(INFER, content=body, headers={HEADER_LENGTH: length} if length else {})
    assert 400 == answer.status_code


def test_too_many_raw_bytes(client: httpx.Client) -> None:
    """Bytes after the last tensor are refused."""
    size = SIDE * SIDE * 3
    text = json.dumps(request_with(data=None, parameters={"binary_data_size": size})).encode()
    headers = {HEADER_LENGTH: str(len(text))}
    assert 200 == client.post(INFER, content=text + bytes(size), headers=headers).status_code
    assert 400 == client.post(INFER, content=text + bytes(size + 1), headers=headers).status_code
    assert 400 == client.post(INFER, content=text + bytes(size - 1), headers=headers).status_code


def test_no_bytes_of_a_shape_without_bounds(client: httpx.Client) -> None:
    """A shape of no elements with sides beyond any array is refused, also by the binary extension."""
    shape = [0, 2**31, 2**31, 2**31]
    text = json.dumps(request_with(shape=shape, data=None, parameters={"binary_data_size": 0})).encode()
    assert 400 == client.post(INFER, content=text, headers={HEADER_LENGTH: str(len(text))}).status_code


def test_version_as_a_parameter(client: httpx.Client) -> None:
    """Where the path names no version, the query may name one."""
    assert [200, 404] == [client.get(f"/v2/models/tiny?version={version}").status_code for version in ("1", "2")]


@pytest.mark.parametrize("version", ["9" * 5000, "%D9%A1", "1.0", "-1", "+1"])
def test_versions_that_are_none(client: httpx.Client, version: str) -> None:
    """A version is a whole number of reasonable length in ASCII digits."""
    for address in (f"/v2/models/tiny/versions/{version}", f"/v2/models/tiny/versions/{version}/ready"):
        answer = client.get(address)
        assert (404, "unknown_model") == (answer.status_code, answer.json()["code"])
    assert 404 == client.post(f"/v2/models/tiny/versions/{version}/infer", json=request_with()).status_code


def test_coded_bodies_are_refused(client: httpx.Client) -> None:
    """A compressed body is refused rather than misread."""
    body = gzip.compress(json.dumps(request_with()).encode())
    assert 415 == client.post(INFER, content=body, headers={"Content-Encoding": "gzip"}).status_code


def test_large_json(client: httpx.Client) -> None:
    """A request whose JSON is parsed in a thread is answered like any other."""
    count = 30
    image = {"name": "image", "shape": [count, SIDE, SIDE, 3], "datatype": "UINT8"}
    data = [200] * (count * SIDE * SIDE * 3)
    answer = client.post(INFER, content=json.dumps({"inputs": [image | {"data": data}]}, indent=8)).raise_for_status()
    assert [count, len(LABELS)] == answer.json()["outputs"][0]["shape"]


VERSION_2 = ["embedding", "novelty", "novelty_quantile", "known", "marks", "mark_maps", "marked"]


def test_metadata_of_a_model_with_marks(marked_server: Running) -> None:
    """It has one more input and seven more outputs."""
    with triton.InferenceServerClient(f"127.0.0.1:{marked_server.port}") as client:
        metadata = client.get_model_metadata("tiny")
    assert {"name": "mark", "datatype": "INT64", "shape": [-1, -1]} == metadata["inputs"][-1]
    shapes = {one["name"]: one["shape"] for one in metadata["outputs"]}
    expected = ([-1, 3], [-1], [-1], [-1], [-1, NO_MARK], [-1, -1, SIDE, SIDE], [-1, -1])
    assert dict(zip(VERSION_2, expected, strict=True)) == {name: shapes[name] for name in VERSION_2}


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_of_marks(marked_server: Running, images: np.ndarray, binary: bool) -> None:
    """Marks are requested by code, by rank, or not at all; the answer has as many maps as were requested."""
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in VERSION_2]
    image = tensor("image", images, binary=binary)
    mark = np.array([[0, -1, NO_MARK], [-5, 4, 1]])
    with triton.InferenceServerClient(f"127.0.0.1:{marked_server.port}") as client:
        result = client.infer("tiny", [image, tensor("mark", mark, binary=binary)], outputs=outputs)
        plain = client.infer("tiny", [image], outputs=outputs)
    marked, maps = result.as_numpy("marked"), result.as_numpy("mark_maps")
    assert ([0, NO_MARK], [4, 1]) == (marked[0, ::2].tolist(), marked[1, 1:].tolist())
    assert 0 <= marked[0, 1] < NO_MARK
    assert 0 <= marked[1, 0] < NO_MARK
    assert (2, 3, SIDE, SIDE) == maps.shape
    if binary:
        assert [[False, False, True], [False] * 3] == np.isnan(maps).all(axis=(2, 3)).tolist()
    assert ((2, 3), (2,), (2,), (2,), (2, NO_MARK)) == tuple(result.as_numpy(name).shape for name in VERSION_2[:5])
    # The tiny model's quantiles are 0 and 1, so that each score is its own.
    np.testing.assert_allclose(result.as_numpy("novelty_quantile"), result.as_numpy("novelty"), rtol=1e-6)
    assert (result.as_numpy("novelty") <= 0.9).tolist() == result.as_numpy("known").tolist()
    assert np.bool_ == result.as_numpy("known").dtype
    np.testing.assert_allclose(np.ones(2), np.linalg.norm(result.as_numpy("embedding"), axis=1), rtol=1e-4)
    assert ([[NO_MARK], [NO_MARK]], (2, 1, SIDE, SIDE)) == (
        plain.as_numpy("marked").tolist(),
        plain.as_numpy("mark_maps").shape,
    )
    np.testing.assert_array_equal(plain.as_numpy("marks"), result.as_numpy("marks"))


@pytest.mark.parametrize(
    ("mark", "code"),
    [
        (int64("mark", [1, 1], [NO_MARK + 1]), "unknown_mark"),
        (int64("mark", [1, 1], [-NO_MARK - 1]), "unknown_mark"),
        (int64("mark", [1, 1], [-(2**63)]), "unknown_mark"),
        (int64("mark", [1, 9], [0] * 9), "invalid_option"),
        (int64("mark", [1, 0], []), "invalid_option"),
        (int64("mark", [2, 1], [0, 0]), "invalid_option"),
        (int64("mark", [1], [0]), "invalid_option"),
    ],
)
def test_codes_of_marks_out_of_range(marked_server: Running, mark: dict[str, Any], code: str) -> None:
    """What names no mark is refused before the model runs, and a model without marks has no such input."""
    runs = marked_server.runs()
    with marked_server.client() as client:
        answer = client.post(INFER, json=also(mark))
    assert (422, code, runs) == (answer.status_code, answer.json()["code"], marked_server.runs())


def test_a_model_without_marks_has_no_such_input(client: httpx.Client) -> None:
    """Nor such outputs."""
    for request in (also(int64("mark", [1, 1], [0])), request_with() | {"outputs": [{"name": "mark_maps"}]}):
        answer = client.post(INFER, json=request)
        assert (422, "invalid_option") == (answer.status_code, answer.json()["code"])
