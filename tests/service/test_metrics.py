"""Metrics for Prometheus: names by its rules, bounded series, and a scrape by a real Prometheus."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service import metrics as module
from service.metrics import MAX_CLASS_SERIES, GpuMemoryCollector, Metrics
from tests.service.conftest import encoded
from tests.service.running import Running, running, tiny_settings


def test_classes_are_bounded() -> None:
    """Classes beyond the limit are counted together."""
    metrics = Metrics()
    for index in range(MAX_CLASS_SERIES + 5):
        metrics.predicted(f"class {index}")
    assert 5 == metrics.registry.get_sample_value("fieldmark_predictions_total", {"label": "other"})
    assert 1 == metrics.registry.get_sample_value("fieldmark_predictions_total", {"label": "class 0"})


def test_methods_and_routes_are_bounded(client: httpx.Client, tiny_server: Running) -> None:
    """Unknown methods and paths create no series."""
    for index in range(20):
        client.request(f"ODD{index}" if index % 2 else "GET", f"/strange/{index}")
    page = client.get("/metrics").text
    assert "strange" not in page
    assert "ODD" not in page
    value = tiny_server.runtime.metrics.registry.get_sample_value
    assert value("fieldmark_http_requests_total", {"route": "unmatched", "method": "GET", "code": "404"})


def test_series_of_alerts_start_at_zero() -> None:
    """Series that alerts watch exist as zero from the start."""
    value = Metrics().registry.get_sample_value
    assert 0 == value("fieldmark_model_reloads_total", {"outcome": "failed"})
    assert 0 == value("fieldmark_requests_refused_total", {"reason": "overloaded"})
    assert 0 == value("fieldmark_stage_duration_seconds_count", {"stage": "render"})


def test_novelty_is_counted_by_model(marked_server: Running, client: httpx.Client, red_png: bytes) -> None:
    """A model with novelty has its series from its load on, one without has none; every answered image is counted."""
    value = marked_server.runtime.metrics.registry.get_sample_value
    names = ("fieldmark_novelty_ratio_count", "fieldmark_unknown_images_total")

    def counted() -> list[float]:
        found = [value(name, {"model": "tiny"}) for name in names]
        return [one for one in found if one is not None]

    before = counted()
    with marked_server.client() as marked:
        for photo in (red_png, encoded("white")):
            marked.post("/classify", content=photo, headers={"Content-Type": "image/png"}).raise_for_status()
    assert [before[0] + 2, before[1] + 1] == counted()
    assert "fieldmark_novelty_ratio_count{" not in used_page(client, red_png)


def test_unloaded_models_are_removed() -> None:
    """A model's series is removed with it."""
    metrics = Metrics()
    labels = ("cub", "1", "ab", "CPUExecutionProvider", "fp32")
    metrics.model_info.labels(*labels).set(1)
    assert b"CPUExecutionProvider" in metrics.exposition(None)[0]
    metrics.model_info.remove(*labels)
    assert b"CPUExecutionProvider" not in metrics.exposition(None)[0]


def test_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of each GPU is reported in bytes; without a GPU nothing is."""
    monkeypatch.setattr(module, "_gpu_memory", lambda: [(10, 80), (20, 80)])
    used, size = GpuMemoryCollector().collect()
    assert [("fieldmark_gpu_memory_used_bytes", 20.0)] == [(one.name, one.value) for one in used.samples[1:]]
    assert [80.0, 80.0] == [one.value for one in size.samples]
    monkeypatch.setattr(module, "_gpu_memory", list)
    assert [] == list(GpuMemoryCollector().collect())


def used_page(client: httpx.Client, photo: bytes) -> str:
    """Return the metrics of a server that has answered and refused requests."""
    headers = {"Content-Type": "image/png"}
    for address in ("/classify", "/explain"):
        client.post(address, content=photo, headers=headers).raise_for_status()
        client.post(address, content=b"junk", headers=headers)
    return client.get("/metrics").raise_for_status().text


def test_every_instrument_is_reported(client: httpx.Client, red_png: bytes) -> None:
    """Every instrument that an operator needs has numbers once the service has worked."""
    page = used_page(client, red_png)
    for line in (
        'fieldmark_http_requests_total{code="200",method="POST",route="/classify"}',
        'fieldmark_http_requests_total{code="415",method="POST",route="/explain"}',
        'fieldmark_http_request_duration_seconds_bucket{le="0.1",route="/classify"}',
        'fieldmark_stage_duration_seconds_count{stage="decode"}',
        'fieldmark_stage_duration_seconds_count{stage="queue"}',
        'fieldmark_stage_duration_seconds_count{stage="infer"}',
        'fieldmark_stage_duration_seconds_count{stage="render"}',
        "fieldmark_batch_images_sum",
        "fieldmark_queue_depth_images",
        "fieldmark_requests_in_flight",
        'fieldmark_requests_refused_total{reason="overloaded"}',
        'fieldmark_images_decoded_total{format="png"}',
        "fieldmark_prediction_confidence_ratio_sum",
        'fieldmark_predictions_total{label="Red bird"}',
        'fieldmark_model_info{name="tiny"',
        'provider="CPUExecutionProvider"',
        'fieldmark_model_reloads_total{outcome="failed"}',
        "process_resident_memory_bytes",
        "fieldmark_build_info",
    ):
        assert line in page
    counts = {}
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("fieldmark_stage_duration_seconds_count"):
            counts[name.split('"')[1]] = float(value)
    # The server is shared with other tests: tensors of the inference protocol pass the queue, and are not decoded.
    assert counts["queue"] == counts["infer"] >= counts["decode"] > 0
    assert 0 < counts["render"] <= counts["infer"]


def test_refusals_count_wherever_they_happen(tmp_path: Path, red_png: bytes) -> None:
    """A request is refused at the door, while its body is read, or in the queue; a probe is not."""
    with running(tiny_settings(tmp_path, max_upload_bytes=1024, max_files=1)) as server, server.client() as client:

        def refused(reason: str) -> float | None:
            labels = {"reason": reason}
            return server.runtime.metrics.registry.get_sample_value("fieldmark_requests_refused_total", labels)

        headers = {"Content-Type": "image/png"}
        declared = client.post("/classify", content=bytes(2000), headers=headers)
        counted = client.post("/classify", content=iter([bytes(2000)]), headers=headers)
        several = client.post("/classify", files=[("file", red_png), ("file", red_png)])
        assert [413] * 3 == [answer.status_code for answer in (declared, counted, several)]
        late = client.post("/classify", content=red_png, headers={**headers, "X-Request-Timeout-Ms": "1e-9"})
        assert 504 == late.status_code
        server.runtime.draining = True
        assert [503, 503] == [client.get("/readyz").status_code, client.post("/classify", content=red_png).status_code]
        assert [3, 1, 1] == [refused(reason) for reason in ("too_large", "deadline_exceeded", "draining")]


def test_openmetrics_on_request(client: httpx.Client) -> None:
    """A scraper that accepts OpenMetrics gets it."""
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_promtool_finds_nothing(client: httpx.Client, red_png: bytes) -> None:
    """Prometheus' own checker has no complaint."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    page = used_page(client, red_png)
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[Running, str]]:
    """Return a server, and the address of a Prometheus that scrapes its second port."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    with running(tiny_settings(tmp_path, admin_port=1)) as server:
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [
                {"job_name": "fieldmark", "static_configs": [{"targets": [f"127.0.0.1:{server.admin_port}"]}]}
            ],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments = [
            program,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield server, f"http://127.0.0.1:{port}"
            finally:
                process.kill()


def query(url: str, expression: str) -> list[dict[str, str]]:
    """Return the labels of what an expression finds, once it finds something."""
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    pause, patience = threading.Event(), time.monotonic() + 60
    while time.monotonic() < patience:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - our own address
                found = json.load(answer)["data"]["result"]
        except OSError:
            found = []
        if found:
            return [one["metric"] for one in found]
        pause.wait(0.1)
    return []


def test_a_real_prometheus_scrapes_it(prometheus: tuple[Running, str], red_png: bytes) -> None:
    """A real Prometheus finds the target up, and requests, latencies and model by their names."""
    server, url = prometheus
    with server.client() as client:
        client.post("/classify", content=red_png, headers={"Content-Type": "image/png"}).raise_for_status()
    assert query(url, 'up{job="fieldmark"} == 1')
    assert query(url, 'fieldmark_http_requests_total{route="/classify",code="200"} == 1')
    assert query(url, 'fieldmark_stage_duration_seconds_count{stage="infer"} == 1')
    (model,) = query(url, "fieldmark_model_info")
    assert ("tiny", "CPUExecutionProvider") == (model["name"], model["provider"])
