"""The layout of the tree: small rooms of short modules, tests that mirror them, and imports in one direction."""

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("model", "service", "training")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted((ROOT / "service" / "http" / "site" / "page").glob("*.js"))
MOST_MODULES = 15
MOST_LINES = 400
WITHOUT_A_MODULE = {
    "test_arms.py": "every arm through the whole export",
    "test_awkward.py": "every awkward image through the whole decoder",
    "test_decisions.py": "what the page says of an answer's decisions, and what users say back: JavaScript and HTML",
    "test_fuzz.py": "hostile requests through the whole application, hostile bytes through the whole decoder",
    "test_gpu.py": "what only a CUDA device shows, of several modules",
    "test_graph_properties.py": "the exported graph, whatever made it",
    "test_http_awkward.py": "every awkward image through every position of a request",
    "test_imports.py": "what processes import, whichever module they start with",
    "test_oip.py": "the Open Inference Protocol, spoken from outside",
    "test_page.py": "the page in a browser: JavaScript and HTML",
    "test_page_tools.py": "what a person does with answers on the page: JavaScript and HTML",
    "test_way.py": "the way of a request through all rooms",
    "test_survival.py": "clients that hang up, send slowly or send bombs, against the whole server",
}
"""Test files that look at more than one module, and at what."""


def test_folders_hold_few_modules() -> None:
    """A folder that outgrows a glance is cut into rooms."""
    count = Counter(str(module.parent) for module in MODULES if module.name != "__init__.py")
    assert {} == {folder: modules for folder, modules in count.items() if modules > MOST_MODULES}


def test_modules_are_short() -> None:
    """A module is read in one sitting."""
    files = [ROOT / module for module in MODULES] + SCRIPTS
    lines = {file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {} == {module: count for module, count in lines.items() if count > MOST_LINES}


def test_tests_mirror_the_modules() -> None:
    """`tests/service/http/test_admission.py` is of `service/http/admission.py`; the others say what they are of."""
    folders = [ROOT / "tests" / package for package in PACKAGES]
    tests = [path.relative_to(ROOT / "tests") for folder in folders for path in folder.rglob("test_*.py")]
    astray = {test for test in tests if test.with_name(test.name.removeprefix("test_")) not in MODULES}
    assert [] == sorted(str(test) for test in astray if test.name not in WITHOUT_A_MODULE)
    assert [] == sorted(str(test) for test in astray if not (ROOT / test.parent).is_dir()), "no such room"
    assert set() == WITHOUT_A_MODULE.keys() - {test.name for test in astray}, "listed without need"


def test_every_module_is_covered() -> None:
    """A module has its own test file, or CONTRIBUTING names one that exists."""
    rows = re.findall(r"^\| `(tests/\S+\.py)` \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    covered = [Path(name + ".py") for _, names in rows for name in re.findall(r"`([^`]+)`", names)]
    assert [] == [test for test, _ in rows if not (ROOT / test).is_file()]
    alone = [
        module
        for module in MODULES
        if module.name != "__init__.py" and not (ROOT / "tests" / module.with_name(f"test_{module.name}")).is_file()
    ]
    assert alone == sorted(covered)


def test_no_import_is_for_the_type_checker_alone() -> None:
    """An import under `if TYPE_CHECKING` hides a cycle from Python, not from the reader."""
    found = [
        f"{module}:{node.lineno}"
        for module in MODULES
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8")))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    assert [] == found


def test_imports_go_in_no_circle() -> None:
    """No module reaches itself through imports, those inside functions included."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    assert {".".join(module.with_suffix("").parts).removesuffix(".__init__") for module in MODULES} == graph.modules
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert [] == _circle(imports)


def test_scripts_import_in_no_circle() -> None:
    """No script of the page reaches itself either."""
    texts = {script.name: script.read_text(encoding="utf-8") for script in SCRIPTS}
    imports = {name: set(re.findall(r'from "\./([^"]+)"', text)) for name, text in texts.items()}
    assert set().union(*imports.values()) < imports.keys()
    assert [] == _circle(imports)


def _circle(imports: dict[str, set[str]]) -> list[str]:
    """Return modules of which each imports the one before it, the first and the last the same; or none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []
