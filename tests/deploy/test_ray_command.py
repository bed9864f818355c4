"""What `python -m deploy.ray_serve` refuses, and what its replicas report, without a Ray."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from service.metrics import Metrics

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

from deploy.ray_command import main, reason
from deploy.ray_serve import LoadPolicy, Refused, check_same, exposition, installed
from service.settings import Settings


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "line"),
    [
        (["--address", "127.0.0.1:1"], {}, 1, "cannot serve: no Ray cluster answers at 127.0.0.1:1"),
        (
            ["--address", "here"],
            {},
            1,
            "cannot serve: address: HOST:PORT of the cluster's head is needed, or auto, not 'here'",
        ),
        (["--min-replicas", "9"], {}, 2, "max_replicas=4 is below min_replicas=9"),
        (["--num-gpus", "x"], {}, 2, "num_gpus: Input should be a valid number, unable to parse string as a number"),
        (
            ["--model", "/nix"],
            {},
            1,
            "cannot serve: no model at /nix: neither an .onnx file nor a folder of NAME/VERSION.onnx",
        ),
        (
            [],
            {"ADMIN_PORT": "9000"},
            1,
            "cannot serve: admin_port: Ray's proxies listen on one port; shield /metrics and /admin in front",
        ),
        (
            [],
            {"FEEDBACK_FILE": "said.jsonl"},
            1,
            "cannot serve: feedback_file: answers are remembered by one process, and feedback would reach another",
        ),
    ],
)
def test_refuses_in_one_line(
    arguments: list[str],
    environment: dict[str, str],
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fault that shows before Ray starts is one line, and the exit code says whose it is."""
    for name, value in environment.items():
        monkeypatch.setenv(f"FIELDMARK_{name}", value)
    monkeypatch.setattr("deploy.ray_command.configure_logs", lambda settings: None)  # those of this process stay
    assert (main(arguments), capsys.readouterr().err) == (code, f"fieldmark: {line}\n")


def test_a_fault_of_a_replica_is_taken_from_its_traceback() -> None:
    """Ray sends the whole traceback, within others; ours is the line that the service raised."""
    text = "Failed\nRayTaskError: x\n  File y\ndeploy.ray_serve.Refused: m/1: not an ONNX file\nNext\n"
    assert reason(text) == "m/1: not an ONNX file"
    assert reason("Version mismatch:\n    Ray: 2.59.0\nwas not\n    Ray: 2.60.0\n") == (
        "Version mismatch: Ray: 2.59.0 was not Ray: 2.60.0"
    )


def test_a_node_that_differs_is_refused() -> None:
    """What differs is named on both sides; models may be swapped after the deployment."""
    deployed = {"fieldmark": "1.2", "Ray": "2.60.0", "model cub50/2": "sha256 aa", "model cub50/3": "sha256 bb"}
    check_same(deployed, {**deployed, "model cub50/4": "sha256 cc"}, "10.0.0.2")
    found = {"fieldmark": "1.1", "Ray": "2.60.0", "model cub50/2": "sha256 dd"}
    check_same(deployed, {**deployed, "model cub50/2": "sha256 dd"}, "10.0.0.2", late=True)
    with pytest.raises(Refused) as refused:
        check_same(deployed, found, "10.0.0.2")
    assert str(refused.value) == (
        "node 10.0.0.2 differs from where it was deployed: fieldmark is 1.1 and not 1.2; "
        "model cub50/2 is sha256 dd and not sha256 aa; model cub50/3 is missing and not sha256 bb"
    )


def test_installed_names_versions_and_models(tmp_path: Path) -> None:
    """Model files are named by their place and digest."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "7.onnx").write_bytes(b"")
    found = installed(Settings(model=tmp_path))
    assert (sorted(found), found["model tiny/7"]) == (["Ray", "fieldmark", "model tiny/7"], "sha256 e3b0c44298fc")


def test_as_many_replicas_as_the_work_needs() -> None:
    """Work in flight over the work that one replica should have; none where nothing was reported."""
    reported = SimpleNamespace(aggregated_metrics={"work_s": {"a": 0.5, "b": 0.25}})
    assert LoadPolicy(0.25)(reported) == (3.0, {})  # type: ignore[arg-type]
    assert LoadPolicy(0.25)(SimpleNamespace(aggregated_metrics=None)) == (0.0, {})  # type: ignore[arg-type]


def test_one_page_holds_the_metrics_of_all_replicas() -> None:
    """Each family is there once, each sample with its replica."""
    first, second = Metrics(), Metrics()
    first.request("/classify", "POST", 200, 0.1)
    second.request("/classify", "POST", 200, 0.1)
    collected = {"b": list(second.registry.collect()), "a": list(first.registry.collect())}
    body, media_type = exposition("", collected)
    lines = [line for line in body.decode().splitlines() if "fieldmark_http_requests_total" in line]
    labels = 'code="200",method="POST"'
    assert lines == [
        "# HELP fieldmark_http_requests_total Requests answered.",
        "# TYPE fieldmark_http_requests_total counter",
        f'fieldmark_http_requests_total{{{labels},replica="a",route="/classify"}} 1.0',
        f'fieldmark_http_requests_total{{{labels},replica="b",route="/classify"}} 1.0',
    ]
    assert media_type.startswith("text/plain")
