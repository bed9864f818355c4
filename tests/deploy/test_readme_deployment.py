"""The README's deployment section, line by line: what can run here runs; what needs an engine is validated otherwise.

`docker compose` and `docker build` lines need an engine: here their files, targets, services and profiles are checked
(test_compose.py holds the files to the specification, test_image.py builds and runs the image). `kubectl` needs a
cluster: here its folder is (test_kubernetes.py validates what is in it).
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("up", "run")


def _lines() -> list[str]:
    """Return the commands of the section, without their remarks."""
    section = (ROOT / "README.md").read_text().partition("\n## Deployment\n")[2].partition("\n## ")[0]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, "README.md has no section Deployment with a block of commands"
    lines = [re.sub(r"\s+#.*", "", line) for line in block[1].splitlines()]
    return [command for line in lines for command in line.split(" && ") if command]


@pytest.mark.parametrize("line", [line for line in _lines() if line.startswith("cp ")])
def test_copied_files_exist(line: str, tmp_path: Path) -> None:
    """The line runs in a copy of what it copies."""
    _, source, target = shlex.split(line)
    shutil.copy(ROOT / source, tmp_path / source)
    subprocess.run(shlex.split(line), cwd=tmp_path, check=True)
    assert (tmp_path / target).read_text() == (ROOT / source).read_text()


@pytest.mark.parametrize("line", [line for line in _lines() if "docker compose " in line])
def test_compose_lines_name_what_exists(line: str) -> None:
    """[needs an engine] Files, profiles, variables and services of the line exist, and the command is a known one."""
    given, _, rest = line.partition("docker compose ")
    words = shlex.split(rest)
    files = [words[index + 1] for index, word in enumerate(words) if word == "-f"] or ["docker-compose.yml"]
    profiles = [words[index + 1] for index, word in enumerate(words) if word == "--profile"]
    text = "\n".join((ROOT / file).read_text() for file in files)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert [word for word in words if word in COMMANDS]
    assert set(profiles) <= {profile for service in services.values() for profile in service.get("profiles", [])}
    assert [name for name in re.findall(r"([A-Z_]+)=", given) if f"${{{name}:-" not in text] == []
    if "run" in words:
        assert words[-1] in services


@pytest.mark.parametrize("line", [line for line in _lines() if line.startswith(("docker build ", "docker run "))])
def test_docker_lines_name_one_image(line: str) -> None:
    """[needs an engine] What is run is what is built: the Dockerfile's default target under this tag."""
    words = shlex.split(line)
    if words[1] == "build":
        assert words[2:] == ["--tag", "fieldmark", "."]
    else:
        assert words[-1] == "fieldmark"
        assert {"--read-only", "--tmpfs"} <= set(words)


@pytest.mark.parametrize("line", [line for line in _lines() if line.startswith("kubectl ")])
def test_kubectl_lines_name_a_kustomization(line: str) -> None:
    """[needs a cluster] The folder of the line is a kustomization."""
    words = shlex.split(line)
    assert words[:3] == ["kubectl", "apply", "-k"]
    assert (ROOT / words[3] / "kustomization.yaml").is_file()


@pytest.mark.parametrize("line", [line for line in _lines() if line.startswith("curl ")])
def test_curl_lines_answer(line: str, serve: Callable[..., str], bird: Path, tmp_path: Path) -> None:
    """The request runs against the service, on the port that this machine has free, and is answered."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shutil.copy(bird, tmp_path / "bird.jpg")
    command = shlex.split(line.replace("http://127.0.0.1:8000", serve()))
    run = subprocess.run([*command, "--fail", "--silent"], cwd=tmp_path, capture_output=True, env=os.environ)
    assert run.returncode == 0
    assert b'"predictions"' in run.stdout


def test_no_line_is_left_out() -> None:
    """Each line of the section is followed by one of the tests above."""
    followed = re.compile(r"cp |([A-Z_]+=\S+ )*docker (compose|build|run) |kubectl |curl ")
    assert [line for line in _lines() if not followed.match(line)] == []
