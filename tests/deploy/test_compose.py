"""docker-compose.yml and its GPU override: valid by the specification, hardened, and true to the images."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

FILES = ["docker-compose.yml", "deploy/compose.gpu.yml"]


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    """Return the parsed docker-compose.yml."""
    loaded: dict[str, Any] = yaml.safe_load((root / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def gpu(root: Path) -> dict[str, Any]:
    """Return the parsed GPU override."""
    loaded: dict[str, Any] = yaml.safe_load((root / "deploy/compose.gpu.yml").read_text())
    return loaded


@pytest.mark.parametrize("file", FILES)
def test_is_valid_by_the_compose_specification(root: Path, file: str) -> None:
    """The files validate against the specification's own schema."""
    checker = Path(sys.executable).with_name("check-jsonschema")
    run = subprocess.run([checker, "--builtin-schema", "vendor.compose-spec", root / file], capture_output=True)
    assert (run.returncode, run.stdout + run.stderr) == (0, b"ok -- validation done\n")


def test_plain_up_starts_service_prometheus_and_grafana(compose: dict[str, Any]) -> None:
    """Only training waits for its profile."""
    plain = sorted(name for name, service in compose["services"].items() if "profiles" not in service)
    assert plain == ["grafana", "prometheus", "service"]
    assert compose["services"]["train"]["profiles"] == ["train"]


@pytest.mark.parametrize("name", ["service", "prometheus", "grafana", "train"])
def test_every_container_is_hardened(compose: dict[str, Any], name: str) -> None:
    """No container can write its image, gain privileges or take the whole machine."""
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"][0].startswith("/tmp:")  # noqa: S108 (a mount, not a file)
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert "privileged" not in service
    assert "cap_add" not in service


def test_grace_period_is_above_the_drain_time(compose: dict[str, Any]) -> None:
    """Docker kills only after the service had its whole time to finish what it accepted."""
    grace_s = int(compose["services"]["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["shutdown_grace_s"].default


def test_mounted_files_exist(root: Path, compose: dict[str, Any]) -> None:
    """Docker makes an empty folder of a missing file; none is missing."""
    sources = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert sources
    assert [source for source in sources if not (root / source).is_file()] == []


def test_named_volumes_are_declared(compose: dict[str, Any]) -> None:
    """Each named volume is declared, and each declared one used."""
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if re.match(r"[a-z]", volume)
    }
    assert set(compose["volumes"]) == used


def test_training_writes_where_the_service_reads(compose: dict[str, Any]) -> None:
    """One volume: training may write it, the service only read it."""
    services = compose["services"]
    assert "models:/models:ro" in services["service"]["volumes"]
    assert "models:/models" in services["train"]["volumes"]
    assert services["service"]["environment"]["FIELDMARK_MODEL"] == "/models"


def test_build_targets_are_stages_of_the_dockerfile(root: Path, compose: dict[str, Any], gpu: dict[str, Any]) -> None:
    """Targets named by the files exist; the CPU is the last stage, what a plain build gives."""
    stages = re.findall(r"^FROM .* AS ([\w-]+)$", (root / "Dockerfile").read_text(), re.MULTILINE)
    files = [compose, gpu]
    targets = {s["build"]["target"] for file in files for s in file["services"].values() if "build" in s}
    assert {"cpu", "gpu", "training"} == targets
    assert targets <= set(stages)
    assert stages[-1] == "cpu"


def test_gpu_override_reserves_the_device_and_refuses_the_cpu(gpu: dict[str, Any]) -> None:
    """The override asks for a GPU and makes the service refuse to start without one."""
    service = gpu["services"]["service"]
    assert service["environment"] == {"FIELDMARK_DEVICE": "cuda"}
    device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert service["deploy"]["resources"]["reservations"]["devices"] == [device]


def test_overridden_services_exist(compose: dict[str, Any], gpu: dict[str, Any]) -> None:
    """The override names only services of the base."""
    assert set(gpu["services"]) <= set(compose["services"])


def test_environment_names_real_settings(compose: dict[str, Any], gpu: dict[str, Any]) -> None:
    """A setting spelt wrong would be ignored in silence."""
    known = {f"FIELDMARK_{name.upper()}" for name in Settings.model_fields}
    named = {
        key
        for file in (compose, gpu)
        for service in file["services"].values()
        for key in service.get("environment", {})
        if key.startswith("FIELDMARK_")
    }
    assert named <= known


def test_train_command_is_what_the_trainer_accepts(compose: dict[str, Any], tmp_path: Path) -> None:
    """The shell line parses, trains and exports into the folder of models under the version's name."""
    for name in ("fieldmark-train", "mkdir"):
        recorder = tmp_path / name
        recorder.write_text(f'#!/bin/sh\necho {name} "$*"\n')
        recorder.chmod(0o755)
    (script,) = compose["services"]["train"]["command"]
    variables = {"MODEL_NAME": "wrens", "MODEL_VERSION": "3", "TRAIN_OPTIONS": "--epochs 2 --seed 1"}
    command = [*compose["services"]["train"]["entrypoint"], script.replace("$$", "$")]
    run = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)} | variables)
    assert run.stdout.splitlines() == [
        "fieldmark-train fit --data /data --out /runs/wrens-3 --epochs 2 --seed 1",
        "mkdir -p /models/wrens",
        "fieldmark-train export /runs/wrens-3 --name wrens --out /models/wrens/3.onnx",
    ], run.stderr
