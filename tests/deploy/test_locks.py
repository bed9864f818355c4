"""The locked dependencies satisfy pyproject.toml, carry hashes, and say nothing about where they were made."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = {"cpu": ["cpu"], "gpu": ["gpu"], "training": ["cpu", "training"]}
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def _locked(root: Path, name: str) -> dict[str, str]:
    """Return the versions of a lock file that apply here, by canonical name."""
    environment = default_environment()
    text = (root / f"deploy/locks/{name}.txt").read_text()
    requirements = [Requirement(line.rstrip(" \\")) for line in text.splitlines() if re.match(r"\w", line)]
    return {
        canonicalize_name(requirement.name): str(next(iter(requirement.specifier))).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(dict(environment))
    }


@pytest.mark.parametrize("name", EXTRAS)
def test_satisfies_the_ranges_of_pyproject(root: Path, name: str) -> None:
    """Each dependency of the image is locked, to a version that pyproject admits; run deploy/locks/update if not."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    ranges = project["dependencies"] + [
        line for extra in EXTRAS[name] for line in project["optional-dependencies"][extra]
    ]
    locked = _locked(root, name)
    wrong = [
        line
        for line in ranges
        if not Requirement(line).specifier.contains(locked.get(canonicalize_name(Requirement(line).name), "0"))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", [*EXTRAS, "build"])
def test_every_package_has_a_hash_and_no_address(root: Path, name: str) -> None:
    """A lock holds versions and hashes alone: no index, no folder, no host."""
    text = (root / f"deploy/locks/{name}.txt").read_text()
    packages = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert [package.splitlines()[0] for package in packages if "--hash=sha256:" not in package] == []
    assert [line for line in text.splitlines() if re.search(r"://|--index|--find-links| @ |^-e|/\w+/\w+/", line)] == []


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_serving_images_hold_one_runtime_and_no_torch(root: Path, name: str) -> None:
    """Neither serving image has torch, and each exactly one ONNX Runtime."""
    locked = _locked(root, name)
    assert len(RUNTIMES & set(locked)) == 1
    assert set() == {"torch", "torchvision", "onnx", "onnxscript", "pip"} & set(locked)
