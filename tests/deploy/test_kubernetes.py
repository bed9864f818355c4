"""The manifests of deploy/kubernetes, validated offline against the schemas that kubernetes-validate carries."""

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
import yaml

from service.settings import Settings

VERSIONS = ["1.33", "1.37"]
Manifest = dict[str, Any]


def _load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


@pytest.fixture(scope="module")
def base(root: Path) -> dict[str, Manifest]:
    """Return the base's manifests by kind."""
    folder = root / "deploy/kubernetes/base"
    manifests = [_load(folder / name) for name in _load(folder / "kustomization.yaml")["resources"]]
    return {manifest["kind"]: manifest for manifest in manifests}


@pytest.fixture(scope="module")
def gpu(root: Path, base: dict[str, Manifest]) -> Manifest:
    """Return the Deployment with the GPU overlay's JSON 6902 operations applied, as kustomize would."""
    folder = root / "deploy/kubernetes/gpu"
    (patch,) = _load(folder / "kustomization.yaml")["patches"]
    deployment = base[patch["target"]["kind"]]
    assert deployment["metadata"]["name"] == patch["target"]["name"]
    patched: Manifest = jsonpatch.apply_patch(copy.deepcopy(deployment), _load(folder / patch["path"]))
    return patched


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodDisruptionBudget"])
def test_base_is_valid(base: dict[str, Manifest], kind: str, version: str) -> None:
    """Every manifest passes the strict schema: no unknown field."""
    kubernetes_validate.validate(base[kind], version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_gpu_overlay_is_valid_and_asks_for_a_gpu(gpu: Manifest, version: str) -> None:
    """The patched Deployment passes too, and a pod gets one GPU or does not start."""
    kubernetes_validate.validate(gpu, version, strict=True)
    (container,) = gpu["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "FIELDMARK_DEVICE", "value": "cuda"} in container["env"]


@pytest.mark.parametrize("folder", ["base", "gpu"])
def test_kustomizations_name_files_that_exist(root: Path, folder: str) -> None:
    """Everything a kustomization names is there."""
    place = root / "deploy/kubernetes" / folder
    kustomization = _load(place / "kustomization.yaml")
    named = [*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))]
    assert [name for name in named if not (place / name).exists()] == []


def test_selectors_find_the_pods(base: dict[str, Manifest]) -> None:
    """Deployment, Service and budget all select the labels that the pods carry."""
    labels = base["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert base["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert base["Service"]["spec"]["selector"] == labels
    assert base["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_pods_are_hardened(base: dict[str, Manifest]) -> None:
    """The pods meet the restricted pod security standard and cannot write their image."""
    pod = base["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_service_links_are_off(base: dict[str, Manifest]) -> None:
    """A Service called fieldmark would set FIELDMARK_PORT=tcp://…, and the pod would not start."""
    assert base["Deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_probes_ask_the_right_questions(base: dict[str, Manifest]) -> None:
    """Only readiness depends on the model: a slow load must not get the pod killed."""
    (container,) = base["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}


def test_grace_period_covers_pre_stop_and_drain(base: dict[str, Manifest]) -> None:
    """Kubernetes kills only after the pre-stop pause and the whole drain time."""
    pod = base["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause_s + Settings.model_fields["shutdown_grace_s"].default


def test_one_pod_always_stays(base: dict[str, Manifest]) -> None:
    """The budget leaves at least one pod, and does not block a drain of the node for ever."""
    assert base["PodDisruptionBudget"]["spec"]["minAvailable"] < base["Deployment"]["spec"]["replicas"]
