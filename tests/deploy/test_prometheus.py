"""Prometheus' configuration, alert rules and the dashboard, against the metrics that the service really exposes."""

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.metrics import Metrics

# The host of deploy/prometheus.yml's target gets this address, which nobody else listens on.
SERVICE_HOST = "127.0.0.77"
GPU_METRICS = {"fieldmark_gpu_memory_used_bytes", "fieldmark_gpu_memory_size_bytes"}
NOVELTY_METRICS = {"fieldmark_novelty_ratio_count", "fieldmark_novelty_ratio_bucket", "fieldmark_unknown_images_total"}
"""Of models with novelty; their names are compared with the metrics' own."""
TESTS = ("tests/deploy/alerts_test.yml", "tests/deploy/drift_test.yml")
MAX_UPLOAD_BYTES = 1_000_000


@pytest.fixture(scope="module")
def panels(root: Path) -> dict[str, list[str]]:
    """Return the queries of each panel of the dashboard."""
    dashboard = json.loads((root / "deploy/grafana/fieldmark.json").read_text())
    return {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


@pytest.fixture(scope="module")
def alerts(root: Path) -> dict[str, str]:
    """Return the alerts' expressions by name."""
    (group,) = yaml.safe_load((root / "deploy/alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


@pytest.fixture(scope="module")
def address(serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a service that deploy/prometheus.yml's target name is made to mean."""
    feedback = tmp_path_factory.mktemp("feedback") / "feedback.jsonl"
    return serve(
        host=SERVICE_HOST,
        port=8000,
        FIELDMARK_MAX_UPLOAD_BYTES=str(MAX_UPLOAD_BYTES),
        FIELDMARK_FEEDBACK_FILE=str(feedback),
    )


def _traffic(address: str, photo: bytes) -> list[int]:
    """Send one request of each kind; return the statuses."""
    headers = {"Content-Type": "image/jpeg"}
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
        answers = [
            client.post("/classify", content=photo),
            client.post("/explain", content=photo),
            client.post("/explain", content=photo, headers={"Accept": "application/json"}),
            client.post("/classify", content=b"not an image"),
            client.post("/classify", content=bytes(MAX_UPLOAD_BYTES + 1)),
        ]
        said = {"request_id": answers[0].headers["x-request-id"], "label": None}
        client.post("/feedback", json=said, headers={"Content-Type": "application/json"}).raise_for_status()
    return [answer.status_code for answer in answers]


@pytest.fixture(scope="module")
def exposed(address: str, bird: Path) -> set[str]:
    """Return the names of all samples and families exposed after some traffic."""
    assert _traffic(address, bird.read_bytes()) == [200, 200, 200, 415, 413]
    text = httpx.get(f"{address}/metrics").text
    return set(re.findall(r"^(?:# TYPE )?([a-z_]+)", text, re.MULTILINE))


def test_configuration_is_valid(root: Path, promtool: str) -> None:
    """`promtool check config` accepts the configuration with its rules."""
    _succeeds(promtool, "check", "config", root / "deploy/prometheus.yml")


def test_rules_are_valid(root: Path, promtool: str) -> None:
    """`promtool check rules` accepts the alerts."""
    _succeeds(promtool, "check", "rules", root / "deploy/alerts.yml")


@pytest.mark.parametrize("file", TESTS)
def test_alerts_fire_when_they_should(root: Path, promtool: str, file: str) -> None:
    """`promtool test rules` sees each alert fire on its trouble and stay silent otherwise."""
    _succeeds(promtool, "test", "rules", root / file)


def test_every_alert_has_a_test(root: Path, alerts: dict[str, str]) -> None:
    """No rule is left out of the tests, neither its firing nor its silence."""
    cases = [
        case
        for file in TESTS
        for test in yaml.safe_load((root / file).read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(alerts)
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == set(alerts)


def _succeeds(*command: str | Path) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def _names(expression: str) -> set[str]:
    """Return the metrics that an expression reads."""
    return set(re.findall(r"\b(?:fieldmark|process)_[a-z_]+\b", re.sub(r'"[^"]*"', "", expression)))


def test_alerts_read_metrics_that_exist(alerts: dict[str, str], exposed: set[str]) -> None:
    """Each metric of an alert is exposed by the service, or is of a GPU."""
    read = {name for expression in alerts.values() for name in _names(expression)}
    assert read - exposed - GPU_METRICS == set()


def test_dashboard_reads_metrics_that_exist(panels: dict[str, list[str]], exposed: set[str]) -> None:
    """Each metric of the dashboard is exposed by the service, or is of a GPU."""
    read = {name for queries in panels.values() for query in queries for name in _names(query)}
    assert read - exposed - GPU_METRICS == set()


def test_novelty_is_exposed_by_these_names() -> None:
    """The metrics that alert and dashboard read of a model with novelty, from its load on."""
    metrics = Metrics()
    metrics.serves_novelty("cub50")
    assert set() == NOVELTY_METRICS - set(
        re.findall(r"^([a-z_]+)\{", metrics.exposition(None)[0].decode(), re.MULTILINE)
    )


def test_dashboard_shows_what_was_promised(panels: dict[str, list[str]]) -> None:
    """Traffic, errors, latency by stage, batch, queue, refusals, confidence, provider and memory have panels."""
    promised = {
        "Requests by route",
        "Answers by status",
        "Stage, p95",
        "Batch",
        "Queue",
        "Refusals by reason",
        "Confidence",
        "Unknown",
        "Novelty",
        "Feedback",
        "Provider",
        "Memory",
    }
    assert promised - set(panels) == set()


def test_dashboard_is_provisioned_with_its_datasource(root: Path) -> None:
    """The dashboard asks the very datasource that Grafana is given, at Prometheus' address in compose."""
    (datasource,) = yaml.safe_load((root / "deploy/grafana/datasources.yml").read_text())["datasources"]
    dashboard = (root / "deploy/grafana/fieldmark.json").read_text()
    uids = set(re.findall(r'"type": "prometheus",\s*"uid": "(\w+)"', dashboard))
    assert uids == {datasource["uid"]}
    assert datasource["url"] == "http://prometheus:9090"


@contextmanager
def _constant_traffic(address: str, photo: bytes) -> Iterator[None]:
    """Keep sending requests of each kind until the block ends."""
    enough = threading.Event()

    def send() -> None:
        while not enough.wait(0.5):
            _traffic(address, photo)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@pytest.fixture(scope="module")
def scraped(root: Path, prometheus: str, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Prometheus with deploy/prometheus.yml as it is; yield its address.

    The name `service` gets its meaning, as compose's network would give it, from a hosts file of Prometheus' own.
    """
    folder = tmp_path_factory.mktemp("prometheus")
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{SERVICE_HOST} service\n")
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody have mounts of his own (unshare --mount)")
    listen = "127.0.0.78:9090"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *alone,
                prometheus,
                f"--config.file={root / 'deploy/prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={listen}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield f"http://{listen}"
    process.terminate()
    process.wait(30)


def _query(address: str, expression: str) -> list[Any]:
    """Return the result of an instant query, with Grafana's variables filled in as Grafana would."""
    for variable, value in {"$__rate_interval": "20s", "$__range": "5m", "$instance": ".*"}.items():
        expression = expression.replace(variable, value)
    answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    result: list[Any] = answer["data"]["result"]
    return result


@pytest.mark.slow
def test_real_prometheus_answers_every_query_of_the_dashboard(
    panels: dict[str, list[str]], address: str, scraped: str, bird: Path, wait: Callable[..., None]
) -> None:
    """After some traffic no panel is empty: names, labels and functions all fit what the service exposes."""
    absent = GPU_METRICS
    queries = [query for of_panel in panels.values() for query in of_panel if not _names(query) & absent]
    unanswered = list(queries)

    def all_answered() -> bool:
        unanswered[:] = [query for query in unanswered if not _query(scraped, query)]
        return not unanswered

    with _constant_traffic(address, bird.read_bytes()):
        wait(lambda: _is_up(scraped), "Prometheus scrapes the service")
        try:
            wait(all_answered, "all queries answered")
        except pytest.fail.Exception:
            pytest.fail("no answer to: " + "\n".join(unanswered))


def _is_up(prometheus: str) -> bool:
    """Return whether Prometheus has reached the service."""
    try:
        if httpx.get(f"{prometheus}/-/ready").status_code != 200:  # it reads its own storage first
            return False
        return [series["value"][1] for series in _query(prometheus, 'up{job="fieldmark"}')] == ["1"]
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_real_prometheus_evaluates_every_alert(
    alerts: dict[str, str], scraped: str, wait: Callable[..., None], address: str
) -> None:
    """Each rule is evaluated without an error, and none fires on a healthy service."""

    def rules() -> list[dict[str, Any]]:
        groups = httpx.get(f"{scraped}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait(lambda: _is_up(scraped), "Prometheus scrapes the service")
    wait(lambda: all(rule["health"] != "unknown" for rule in rules()), "rules are evaluated")
    assert {rule["name"]: (rule["health"], rule["state"]) for rule in rules()} == dict.fromkeys(
        alerts, ("ok", "inactive")
    )
