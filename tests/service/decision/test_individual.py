"""Several photos of one individual: the product of what each says, over a real connection and in whatever order."""

import itertools
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from model.contract.manifest import Individual, Manifest
from service.decision.individual import CAUTIOUS, dependence
from service.http.api import schemas
from tests.service.conftest import encoded
from tests.service.http.test_routes import RAW, problem
from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import LABELS, tiny_logits, tiny_manifest, tiny_model, tiny_self_check

COLOURS = ("#a04020", "#305070", "#906090")
DEPENDENCE = 0.25
WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4])


def manifest() -> Manifest:
    """Return the tiny model's manifest, in which photos are somewhat dependent."""
    return tiny_manifest(self_check=tiny_self_check(), individual=Individual(dependence=DEPENDENCE, num_photos=100))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server of the tiny model with a dependence and a prior."""
    folder = tmp_path_factory.mktemp("individual")
    settings = tiny_settings(folder)
    (folder / "tiny" / "1.onnx").write_bytes(tiny_model(manifest()))
    rows = ["class,May", *(f"{label},{weight}" for label, weight in zip(LABELS, WEIGHTS, strict=True))]
    (folder / "tiny" / "priors.csv").write_text("\n".join(rows))
    with running(settings) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """Return a client of this server."""
    with server.client() as client:
        yield client


def photos(*colours: str) -> list[tuple[str, tuple[str, bytes]]]:
    """Return plain pictures as the files of a form."""
    return [("file", (f"{colour}.png", encoded(colour))) for colour in colours]


def expected(colours: tuple[str, ...], weights: np.ndarray, power: float) -> np.ndarray:
    """Return the product of the photos' probabilities to a power, times the prior, divided by its sum; (K,)."""
    pixels = np.array([[int(colour[start : start + 2], 16) for start in (1, 3, 5)] for colour in colours], np.uint8)
    logits = tiny_logits(np.broadcast_to(pixels[:, None, None], (len(colours), 8, 8, 3))).astype(np.float64)
    each = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    products = each.prod(axis=0) ** power * weights
    return products / products.sum()


@pytest.mark.parametrize("query", ["", "&prior=May", "&prior=May&among=class:0&among=class:3"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_answer_for_all(client: httpx.Client, query: str, count: int) -> None:
    """The product of the experts, each to the power that the model's file has; a prior counts once."""
    weights = (WEIGHTS if "May" in query else np.ones(4)) * ([1, 0, 0, 1] if "among" in query else 1)
    answer = client.post(f"/classify?individual=true&threshold=0.9{query}", files=photos(*COLOURS[:count]))
    found = schemas.Individual.model_validate(answer.raise_for_status().json())
    wanted = expected(COLOURS[:count], weights, count**-DEPENDENCE)
    for one in found.predictions:
        assert one.probability == pytest.approx(wanted[one.index], abs=1e-6)
    shares = [one.probability for one in found.predictions]
    assert sorted(shares, reverse=True) == shares
    assert (count, (weights > 0).sum(), False) == (found.photos, len(found.predictions), found.accepted)
    assert found.prior == ("May" if "May" in query else None)
    # Each photo's own answer stands beside it, as without the option.
    singles = client.post(f"/classify?threshold=0.9{query}", files=photos(*COLOURS[:count])).json()
    singles = singles.get("results", [singles])
    assert [one["predictions"] for one in singles] == [one["predictions"] for one in answer.json()["results"]]


@pytest.mark.parametrize("query", ["", "&prior=May&top_k=1"])
def test_the_order_of_photos_does_not_matter(client: httpx.Client, query: str) -> None:
    """Bit for bit the same answer; each photo's own is where it was sent."""
    answers = set()
    for order in itertools.permutations((*COLOURS, "#102030")):
        found = client.post(f"/classify?individual=1{query}", files=photos(*order)).raise_for_status().json()
        assert [f"{colour}.png" for colour in order] == [one["filename"] for one in found["results"]]
        answers.add(str(found["predictions"]))
    assert 1 == len(answers)


def test_bad_photos_do_not_count(client: httpx.Client) -> None:
    """They have a problem in their place; the others answer."""
    bad = [("file", ("a.txt", b"no image")), ("file", ("b.png", encoded()[:40]))]
    mixed = client.post("/classify?individual=true", files=[bad[0], *photos(*COLOURS), bad[1]]).raise_for_status()
    alone = client.post("/classify?individual=true", files=photos(*COLOURS)).raise_for_status()
    assert (alone.json()["predictions"], 3) == (mixed.json()["predictions"], mixed.json()["photos"])
    results = schemas.Individual.model_validate(mixed.json()).results
    assert ["unsupported_image_type", "undecodable_image"] == [results[index].code for index in (0, 4)]  # type: ignore[union-attr]

    document = problem(client.post("/classify?individual=true", files=bad), 422, "undecodable_image")
    assert document.detail.startswith("None of the images can be read. The first: a.txt: ")
    problem(client.post("/classify?individual=true", files=bad[:1]), 415, "unsupported_image_type")
    problem(client.post("/classify?individual=true", content=b"", headers=RAW), 400, "empty_input")


def test_only_classify_takes_them_together(client: httpx.Client, red_png: bytes) -> None:
    """A map is of one photo; and the option belongs in the query."""
    document = problem(client.post("/explain?individual=true", content=red_png, headers=RAW), 422, "invalid_option")
    assert ["is not a parameter of this address"] == [one.reason for one in document.invalid or []]
    problem(client.post("/classify", files={"file": red_png}, data={"individual": "1"}), 422, "invalid_option")
    problem(client.post("/classify?individual=two", content=red_png, headers=RAW), 422, "invalid_option")


def test_a_fault_of_the_service_refuses_all(client: httpx.Client) -> None:
    """A photo that was too late is not left out: the answer would depend on the load."""
    late = {"X-Request-Timeout-Ms": "0.001"}
    answer = client.post("/classify?individual=true", files=photos(*COLOURS), headers=late)
    problem(answer, 504, "deadline_exceeded")


def test_the_cautious_rule(tiny_server: Running) -> None:
    """Where the model's file says nothing, the geometric mean of the photos."""
    assert CAUTIOUS == dependence(tiny_manifest())
    with tiny_server.client() as client:
        found = client.post("/classify?individual=true", files=photos(*COLOURS)).raise_for_status().json()
    wanted = expected(COLOURS, np.ones(4), 1 / 3)
    for one in found["predictions"]:
        assert one["probability"] == pytest.approx(wanted[one["index"]], abs=1e-6)
