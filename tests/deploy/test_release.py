"""The release: wheel and sdist that install and serve in a clean environment, version from the tag, SBOM, workflow."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

PACKAGE_DATA = ["model/py.typed", "service/py.typed", "training/py.typed", "service/http/site/page/index.html"]
NEEDED_TO_DEPLOY = ["Dockerfile", "docker-compose.yml", ".env.example", "deploy/alerts.yml", "deploy/locks/cpu.txt"]


def _run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command to its end; return what it printed, fail the test with that if it failed."""
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | variables)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def _build(source: Path, out: Path, **variables: str) -> tuple[Path, Path]:
    """Return (wheel, sdist), the wheel built from the sdist."""
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out.parent, **variables)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the wheel and the sdist of this checkout."""
    return _build(root, tmp_path_factory.mktemp("build") / "dist")


@pytest.fixture(scope="module")
def clean_environment(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment that holds what the cpu image holds, without fieldmark."""
    folder = tmp_path_factory.mktemp("clean")
    probe = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder / "probe", "packaging"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("no package index can be reached from here")
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    _run(environment / "bin/pip", "install", "--require-hashes", "-r", root / "deploy/locks/cpu.txt", cwd=folder)
    return environment


def test_wheel_holds_the_package_and_its_data(built: tuple[Path, Path]) -> None:
    """The wheel has the model, the page, the recipes and the type markers, and no tests."""
    names = zipfile.ZipFile(built[0]).namelist()
    assert set(PACKAGE_DATA) - set(names) == set()
    assert [name for name in names if re.fullmatch(r"service/bundled/[\w-]+/\d+\.onnx", name)]
    assert [name for name in names if re.fullmatch(r"training/recipes/[\w-]+\.toml", name)]
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"model", "service", "training"}


def test_sdist_holds_what_deploying_needs(built: tuple[Path, Path]) -> None:
    """The sdist can be tested and deployed without the repository."""
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(NEEDED_TO_DEPLOY) - names == set()
    assert [name for name in names if "__pycache__" in name] == []


def test_version_is_the_tag(root: Path, tmp_path: Path) -> None:
    """A tagged commit builds that version."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    files = [line for line in ("pyproject.toml", "README.md", "LICENSE") if shutil.copy(root / line, tmp_path / line)]
    _run(*git, "init", "--quiet", cwd=tmp_path)
    _run(*git, "add", *files, cwd=tmp_path)
    _run(*git, "commit", "--quiet", "--message", "x", cwd=tmp_path)
    _run(*git, "tag", "v9.8.7", cwd=tmp_path)
    assert _run(sys.executable, "-m", "hatchling", "version", cwd=tmp_path).strip() == "9.8.7"


def test_version_can_be_given_where_there_is_no_git(root: Path, tmp_path: Path) -> None:
    """In an image's build the version is an argument; left empty, pyproject's fallback."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    hatchling = (sys.executable, "-m", "hatchling", "version")
    given = _run(*hatchling, cwd=tmp_path, SETUPTOOLS_SCM_PRETEND_VERSION="1.2.3")
    assert given.strip() == "1.2.3"
    fallback = _run(*hatchling, cwd=tmp_path, SETUPTOOLS_SCM_PRETEND_VERSION="")
    assert f'fallback-version = "{fallback.strip()}"' in (root / "pyproject.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["wheel", "sdist"])
def test_installs_and_serves_in_a_clean_environment(
    form: str, built: tuple[Path, Path], clean_environment: Path, serve: Callable[..., str], bird: Path
) -> None:
    """What is released, with the locked dependencies and nothing else, answers a photo."""
    archive = dict(zip(("wheel", "sdist"), built, strict=True))[form]
    pip = clean_environment / "bin/pip"
    _run(pip, "install", "--no-deps", "--force-reinstall", archive, cwd=clean_environment)
    assert "torch" not in _run(pip, "list", cwd=clean_environment)
    address = serve(clean_environment / "bin/fieldmark")
    answer = httpx.post(f"{address}/classify", content=bird.read_bytes(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["label"]


@pytest.mark.slow
def test_bill_of_materials_names_everything_installed(
    root: Path, built: tuple[Path, Path], clean_environment: Path, tmp_path: Path
) -> None:
    """The SBOM of the workflow's command lists the locked packages and fieldmark itself."""
    _run(clean_environment / "bin/pip", "install", "--no-deps", "--force-reinstall", built[0], cwd=clean_environment)
    command = Path(sys.executable).with_name("cyclonedx-py")
    options = ["--pyproject", root / "pyproject.toml", "--output-format", "JSON", "--output-file", tmp_path / "sbom"]
    _run(command, "environment", *options, clean_environment / "bin/python", cwd=tmp_path)
    sbom = json.loads((tmp_path / "sbom").read_text())
    found = {component["name"].lower().replace("_", "-") for component in sbom["components"]}
    locked = re.findall(r"^([\w-]+)==", (root / "deploy/locks/cpu.txt").read_text(), re.MULTILINE)
    assert sbom["metadata"]["component"]["name"] == "fieldmark"
    assert set(locked) - found == set()


def test_workflow_is_valid(root: Path) -> None:
    """The workflow validates against GitHub's schema."""
    checker = Path(sys.executable).with_name("check-jsonschema")
    _run(checker, "--builtin-schema", "vendor.github-workflows", root / ".github/workflows/ci.yml", cwd=root)
