"""`POST /feedback` over a real connection: what is written down, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.feedback.routes import MAX_BYTES
from service.http.feedback.schemas import FeedbackTaken
from tests.service.conftest import encoded
from tests.service.http.test_routes import RAW, problem
from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import LABELS


def last_line(file: Path) -> dict[str, Any]:
    """Return the newest line of a file."""
    found: dict[str, Any] = json.loads(file.read_text().splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("said", "label", "verdict"),
    [
        (LABELS[0], LABELS[0], "right"),
        ("red BIRD", LABELS[0], "right"),
        ("class:2", LABELS[2], "wrong"),
        (None, None, "none"),
    ],
)
def test_feedback_is_written_down(
    collecting: tuple[Running, Path], red_png: bytes, said: str | None, label: str | None, verdict: str
) -> None:
    """The label of the user stands beside what was answered, and is counted."""
    server, file = collecting

    def count() -> list[float]:
        value = server.runtime.metrics.registry.get_sample_value
        labels = {"model": "tiny", "verdict": verdict, "known": "true"}
        by_class = {"label": LABELS[0], "verdict": verdict}
        return [
            value("fieldmark_feedback_total", labels) or 0,
            value("fieldmark_feedback_classes_total", by_class) or 0,
        ]

    before = count()
    with server.client() as client:
        answer = client.post("/classify", content=red_png, headers=RAW).raise_for_status().json()
        request = {"request_id": answer["request_id"], "label": said}
        taken = FeedbackTaken.model_validate(client.post("/feedback", json=request).raise_for_status().json())
    assert (label, LABELS[0], verdict == "right") == (taken.label, taken.predicted, taken.right)
    line = last_line(file)
    assert (answer["request_id"], label, LABELS[0]) == (line["request_id"], line["label"], line["predicted"])
    assert (answer["known"], answer["novelty"]) == (line["known"], line["novelty"])
    identity = {"name": line["model"], "version": line["version"], "sha256": line["sha256"]}
    assert answer["model"] == {**identity, "precision": "fp32"}
    assert [one + 1 for one in before] == count()


def test_one_of_several_images(collecting: tuple[Running, Path], red_png: bytes, blue_jpeg: bytes) -> None:
    """An image of a request is named by its place among all, those that could not be answered included."""
    server, file = collecting
    files = [("file", red_png), ("file", b"no image"), ("file", blue_jpeg), ("file", blue_jpeg)]
    with server.client(headers={"X-Request-Id": "batch/7"}) as client:
        client.post("/explain", files=files, headers={"Accept": "application/json"}).raise_for_status()
        for image in (0, 3):
            request = {"request_id": "batch/7", "label": LABELS[3], "image": image}
            client.post("/feedback", json=request).raise_for_status()
            assert (image, LABELS[image and 2]) == (last_line(file)["image"], last_line(file)["predicted"])
        for image in (1, 4):
            request = {"request_id": "batch/7", "label": None, "image": image}
            problem(client.post("/feedback", json=request), 404, "unknown_request")


def test_answers_of_the_inference_protocol(collecting: tuple[Running, Path], red_png: bytes) -> None:
    """Its answers are remembered under the id in their header."""
    server, file = collecting
    with server.client() as client:
        tensor = {"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0, 0, 200] * 64}
        answer = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).raise_for_status()
        request = {"request_id": answer.headers["x-request-id"], "label": LABELS[2]}
        assert client.post("/feedback", json=request).raise_for_status().json()["right"]
    assert LABELS[2] == last_line(file)["predicted"]


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"request_id": "nobody", "label": None}, 404, "unknown_request"),
        ({"request_id": "known", "label": "Red brid"}, 422, "unknown_class"),
        ({"request_id": "known", "label": "rank:1"}, 422, "unknown_class"),
        ({"request_id": "known", "label": ""}, 422, "unknown_class"),
        ({"request_id": "known", "label": "x" * 201}, 422, "invalid_option"),
        ({"request_id": "known", "label": 3}, 422, "invalid_option"),
        ({"request_id": "known", "label": None, "image": True}, 422, "invalid_option"),
        ({"request_id": "known", "label": None, "image": -1}, 422, "invalid_option"),
        ({"request_id": "known", "label": None, "photo": "x"}, 422, "invalid_option"),
        ({"request_id": "known"}, 422, "invalid_option"),
        ({"request_id": "known\n", "label": None}, 422, "invalid_option"),
        ({"request_id": "\N{DEVANAGARI DIGIT ONE}", "label": None}, 422, "invalid_option"),
        ([], 400, "malformed_request"),
        (None, 400, "malformed_request"),
    ],
)
def test_what_is_refused(
    collecting: tuple[Running, Path], red_png: bytes, request_: object, status: int, code: str
) -> None:
    """Nothing is written down of an answer that is not remembered, or of a class that there is not."""
    server, file = collecting
    with server.client() as client:
        client.post("/classify", content=red_png, headers={**RAW, "X-Request-Id": "known"}).raise_for_status()
        before = file.read_bytes()
        document = problem(client.post("/feedback", json=request_), status, code)
    assert before == file.read_bytes()
    if request_ == {"request_id": "known", "label": "Red brid"}:
        assert [LABELS[0]] == (document.nearest or [])[:1]


def test_bodies_that_are_refused(collecting: tuple[Running, Path]) -> None:
    """No JSON, no body, a body that is not declared as JSON, and one that is too large, declared or not."""
    server, _ = collecting
    declared = {"Content-Type": "application/json; charset=utf-8"}
    with server.client() as client:
        problem(client.post("/feedback", content=b"{", headers=declared), 400, "malformed_request")
        problem(client.post("/feedback", content=b'"\xff"', headers=declared), 400, "malformed_request")
        problem(client.post("/feedback", content=b"", headers=declared), 400, "empty_input")
        problem(
            client.post("/feedback", content=b"{}", headers={"Content-Type": "text/plain"}), 400, "malformed_request"
        )
        large = b" " * (MAX_BYTES + 1)
        problem(client.post("/feedback", content=large, headers=declared), 413, "too_large")
        problem(client.post("/feedback", content=iter([large] * 3), headers=declared), 413, "too_large")
        assert 405 == client.get("/feedback").status_code


def test_off_by_default(client: httpx.Client) -> None:
    """Without a file nothing is collected, and the list of models does not offer it."""
    problem(client.post("/feedback", json={"request_id": "a", "label": None}), 403, "feedback_off")
    assert ["models"] == list(client.get("/models").json())


def test_on_is_said_beside_the_models(collecting: tuple[Running, Path]) -> None:
    """Pages and programs see it there."""
    server, _ = collecting
    with server.client() as client:
        assert client.get("/models").json()["feedback"] is True


def test_it_needs_the_key_of_a_client(tmp_path: Path, red_png: bytes) -> None:
    """The same as the photos do."""
    keys = tmp_path / "keys"
    keys.write_text("correct-horse\n")
    settings = tiny_settings(tmp_path, feedback_file=tmp_path / "f", api_keys_file=keys)
    with running(settings) as server, server.client() as client:
        key = {"X-API-Key": "correct-horse"}
        answer = client.post("/classify", content=red_png, headers=RAW | key).raise_for_status().json()
        request = {"request_id": answer["request_id"], "label": LABELS[0]}
        problem(client.post("/feedback", json=request), 401, "unauthorized")
        client.post("/feedback", json=request, headers=key).raise_for_status()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_fails_feedback_alone(tmp_path: Path) -> None:
    """Photos are answered, the service stays ready, and the answer names no path."""
    settings = tiny_settings(tmp_path, feedback_file=Path("/dev/full"))
    with running(settings) as server, server.client() as client:
        for _ in range(3):
            answer = client.post("/classify", content=encoded("blue"), headers=RAW).raise_for_status().json()
            request = {"request_id": answer["request_id"], "label": None}
            failed = client.post("/feedback", json=request)
            problem(failed, 503, "feedback_unavailable")
            assert "/dev" not in failed.text
        assert 200 == client.get("/readyz").status_code


def test_a_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """One line says which file and why."""
    file = tmp_path / "nowhere" / "feedback.jsonl"
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--feedback-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert 1 == done.returncode
    assert [f"fieldmark: {file}: no such file or directory"] == done.stderr.splitlines()
