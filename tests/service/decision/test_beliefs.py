"""What may be there: Bayes' rule on the answers of the bundled model and of the tiny one, over a real connection."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic_core import to_json

from service.decision.beliefs import belief_of, normalised
from service.errors import UnknownClass
from service.http.answers import novelty_answer
from service.http.api.schemas import Classification, Classifications, Explanation
from service.inference.engine import Question
from service.inference.predictor import Prediction
from service.settings import BUNDLED_MODEL, Settings
from tests.service.conftest import encoded
from tests.service.http.test_routes import RAW, problem
from tests.service.inference.test_models import put, started_runtime
from tests.service.running import PATIENCE_S, Running, running
from tests.service.tiny_model import LABELS, MARKS, marked_manifest, tiny_manifest, tiny_model

JSON = {**RAW, "Accept": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server of the tiny model with marks and of the bundled one, each with priors."""
    folder = tmp_path_factory.mktemp("priors")
    (folder / "tiny").mkdir()
    (folder / "tiny" / "1.onnx").write_bytes(tiny_model(marked_manifest()))
    rows = ["class,May,June,Nowhere", "Red bird,1,0,0", "Green bird,2,5,1", "Blue bird,3,0,1", "Grey bird,4,5,1"]
    (folder / "tiny" / "priors.csv").write_text("\n".join(rows))
    shutil.copytree(BUNDLED_MODEL / "cub50", folder / "cub50")
    with running(
        Settings(model=folder, default_model="tiny", device="cpu", request_timeout_ms=PATIENCE_S * 1000)
    ) as up:
        labels = up.runtime.models.get("cub50").manifest.labels
        shares = np.random.default_rng(0).gamma(0.5, size=len(labels)) + 1e-3
        rows = ["class,Ohio", *(f"{label},{share!r}" for label, share in zip(labels, shares.tolist(), strict=True))]
        (folder / "cub50" / "priors.csv").write_text("\n".join(rows))
        reload = up.runtime.models.reload()
        assert ["cub50/2"] == asyncio.run_coroutine_threadsafe(reload, up.loop).result()["loaded"]
        yield up


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """Return a client of this server."""
    with server.client() as client:
        yield client


def predicted(server: Running, model: str, photo: bytes) -> Prediction:
    """Return a model's prediction."""
    served = server.runtime.models.get(model)
    work = server.runtime.predictor.predict(served, photo, Question.about(served.manifest))
    return asyncio.run_coroutine_threadsafe(work, server.loop).result()


@pytest.mark.parametrize("among", [[], ["class:3", "class:7", "class:49", "class:3"]])
@pytest.mark.parametrize("prior", [None, "Ohio"])
def test_the_closed_form(server: Running, among: list[str], prior: str | None) -> None:
    """The probabilities are the calibrated ones times the prior, divided by their sum."""
    served = server.runtime.models.get("cub50")
    weights = np.ones(50) if prior is None else served.priors[prior].copy()
    if among:
        weights[[index for index in range(50) if index not in (3, 7, 49)]] = 0
    for colour in ("teal", "gray", "tan", "white"):
        plain = predicted(server, "cub50", encoded(colour, (320, 240), "JPEG"))
        belief = belief_of(prior, among, served)
        products = plain.probabilities.astype(np.float64) * weights
        found = belief.applied(plain)
        np.testing.assert_allclose(found.probabilities, products / products.sum(), atol=1e-6, rtol=0)
        assert (47 if among else 0) == found.ruled_out == (found.probabilities == 0).sum()


def test_what_rounds_to_nothing_is_still_decided() -> None:
    """Candidates that the model all but excludes are compared by their logits; only the others have 0."""
    found = normalised(np.array([-2000.0, -np.inf, -2001.0, -9000.0]))
    np.testing.assert_allclose(found[:3], [1 / (1 + np.exp(-1)), 0, 1 / (1 + np.e)], rtol=1e-6)
    assert 0 < found[3] < 1e-30


def test_answers_without_these_options_are_the_same_bytes(server: Running, client: httpx.Client) -> None:
    """A model's priors change nothing by themselves."""
    photo = encoded("teal", (90, 60))
    headers = {**RAW, "X-Request-Id": "same"}
    prediction = predicted(server, "cub50", photo)
    served, best = prediction.served, np.argsort(-prediction.probabilities, kind="stable")[:5].tolist()
    expected = {
        "predictions": [
            {
                "label": served.manifest.labels[index],
                "index": index,
                "probability": round(float(prediction.probabilities[index]), 6),
            }
            for index in best
        ],
        **novelty_answer(prediction),
        "model": {"name": "cub50", "version": "2", "sha256": served.sha256, "precision": "fp32"},
        "filename": None,
        "width": 90,
        "height": 60,
        "request_id": "same",
    }
    for query in ("", "&individual=false"):
        answer = client.post(f"/classify?model=cub50{query}", content=photo, headers=headers)
        assert to_json(expected) == answer.content


def test_the_answer_says_what_was_used(client: httpx.Client, red_png: bytes, blue_jpeg: bytes) -> None:
    """Only candidates are named, under the labels of the model, in its order; a prior under its name."""
    answer = client.post("/classify?prior=may&among=class:3&among=blue%20BIRD&top_k=1000", content=red_png, headers=RAW)
    result = Classification.model_validate(answer.raise_for_status().json())
    assert ("May", ["Blue bird", "Grey bird"]) == (result.prior, result.among)
    assert ["Grey bird", "Blue bird"] == [one.label for one in result.predictions]
    assert 1 == sum(one.probability for one in result.predictions)
    files = [("file", red_png), ("file", b"no image"), ("file", blue_jpeg)]
    answer = client.post("/classify?prior=June", files=files).raise_for_status()
    red, _, blue = Classifications.model_validate(answer.json()).results
    assert [("June", None)] * 2 == [(one.prior, one.among) for one in (red, blue)]  # type: ignore[union-attr]
    assert "among" not in answer.json()["results"][0]


def test_ranks_and_maps_follow(server: Running, client: httpx.Client, red_png: bytes) -> None:
    """Target, versus and marks are of the candidates' ranks; a second run only where these are other classes."""
    # A red photo's classes are red, grey, and then green and blue alike.
    asked = "values=true&marks=8"
    runs = server.runs()
    same = client.post(f"/explain?{asked}&versus=rank:2&prior=May", content=red_png, headers=JSON).raise_for_status()
    assert runs + 1 == server.runs()
    assert ("Red bird", "Grey bird") == tuple(same.json()[name]["label"] for name in ("target", "versus"))
    answer = client.post(
        f"/explain?{asked}&versus=rank:2&among=Green%20bird&among=Blue%20bird&prior=May", content=red_png, headers=JSON
    ).raise_for_status()
    assert runs + 3 == server.runs()
    found = Explanation.model_validate(answer.json())
    assert found.versus is not None
    assert ("Blue bird", 0.6) == (found.target.label, found.target.probability)
    assert ("Green bird", 0.4) == (found.versus.label, found.versus.probability)
    plain = client.post(
        f"/explain?{asked}&target=Blue%20bird&versus=Green%20bird", content=red_png, headers=JSON
    ).json()
    for name in ("gradcam", "gradcam_versus", "marks", "missing"):
        assert plain[name] == answer.json()[name]
    # `/classify` needs the maps for the places of marks only.
    runs = server.runs()
    client.post("/classify?among=Green%20bird", content=red_png, headers=RAW).raise_for_status()
    assert runs + 1 == server.runs()
    marked = client.post("/classify?among=Green%20bird&marks=8", content=red_png, headers=RAW).raise_for_status()
    assert runs + 3 == server.runs()
    shares = {mark.name: row for mark, row in zip(MARKS, (0.1, 0.9, 0.1, 0.1, 0.8), strict=True)}
    assert {one["name"]: one["typical"] for one in marked.json()["marks"]}.items() <= shares.items()


def test_a_class_that_is_ruled_out_can_be_explained(client: httpx.Client, red_png: bytes) -> None:
    """By its label, with the probability 0; a rank never names it."""
    answer = client.post("/explain?target=Red%20bird&among=Grey%20bird&among=class:1", content=red_png, headers=JSON)
    found = Explanation.model_validate(answer.raise_for_status().json())
    assert ("Red bird", 0.0) == (found.target.label, found.target.probability)
    document = problem(
        client.post("/explain?target=rank:3&among=Grey%20bird&among=class:1", content=red_png, headers=RAW),
        422, "unknown_class",
    )  # fmt: skip
    assert "`rank:` takes a whole number from 1 to 2: so many classes may be there." == document.detail
    query = "/explain?target=rank:1&versus=Grey%20bird&among=Grey%20bird"
    problem(client.post(query, content=red_png, headers=RAW), 422, "invalid_option")


def test_a_picture_says_what_was_used(client: httpx.Client, red_png: bytes) -> None:
    """Headers name the class of the posterior, the prior and the candidates."""
    answer = client.post("/explain?prior=June&among=class:3&among=class:1", content=red_png, headers=RAW)
    headers = answer.raise_for_status().headers
    assert ("Grey%20bird", "Grey%20bird") == (headers["x-fieldmark-label"], headers["x-fieldmark-target"])
    assert ("June", "1,3") == (headers["x-fieldmark-prior"], headers["x-fieldmark-among"])
    plain = client.post("/explain", content=red_png, headers=RAW).raise_for_status().headers
    assert not {"x-fieldmark-prior", "x-fieldmark-among"} & set(plain)


@pytest.mark.parametrize(
    ("query", "code", "detail", "nearest"),
    [
        ("among=Red%20bird&among=Grean", "unknown_class", "`among`, number 2: No class has this label.",
         (LABELS[1], LABELS[3])),
        ("among=", "unknown_class", "`among`, number 1: No class has this label.", ()),
        ("among=class:4", "unknown_class", "`among`, number 1: `class:` takes a whole number from 0 to 3.", ()),
        ("among=rank:1", "unknown_class", "`among`, number 1: a rank names no class here.", ()),
        ("prior=Mai", "unknown_prior", "The model has no prior of this name.", ("May",)),
        ("prior=", "unknown_prior", "The model has no prior of this name.", ()),
        ("prior=May&model=cub50", "unknown_prior", "The model has no prior of this name.", ()),
        ("prior=June&among=class:0&among=class:2", "no_class_left",
         "The prior `June` is 0 for every class of `among`.", None),
        ("prior=May&prior=June", "invalid_option", "Not valid: `prior`.", None),
        ("prior=" + "m" * 65, "invalid_option", "Not valid: `prior`.", None),
        ("among=" + "m" * 201, "invalid_option", "Not valid: `among.0`.", None),
        ("&".join(["among=class:0"] * 257), "invalid_option", "Not valid: `among`.", None),
    ],
)  # fmt: skip
def test_what_is_refused(
    server: Running, client: httpx.Client, red_png: bytes, query: str, code: str, detail: str, nearest: tuple[str, ...]
) -> None:
    """Before the model runs, with a sentence that says what is wrong."""
    runs = server.runs()
    for address in ("/classify", "/explain"):
        document = problem(client.post(f"{address}?{query}", content=red_png, headers=RAW), 422, code)
        assert detail == document.detail
        assert nearest is None or list(nearest) == document.nearest
    assert runs == server.runs()


def test_a_model_without_priors_says_so(bundled_server: Running, red_png: bytes) -> None:
    """So does `/models`, which lists the names of the others."""
    with bundled_server.client() as client:
        document = problem(client.post("/classify?prior=May", content=red_png, headers=RAW), 422, "unknown_prior")
        assert ("The model cub50 has no priors.", []) == (document.detail, document.nearest)
        assert [] == client.get("/models").json()["models"][0]["priors"]


def test_models_list_their_priors(client: httpx.Client) -> None:
    """In the order of the table."""
    found = {one["name"]: one["priors"] for one in client.get("/models").raise_for_status().json()["models"]}
    assert {"cub50": ["Ohio"], "tiny": ["May", "June", "Nowhere"]} == found


def test_ranks_are_checked_before_a_photo_is_read(server: Running) -> None:
    """Those of the contrast, too."""
    served = server.runtime.models.get("tiny")
    belief = belief_of("June", [], served)
    with pytest.raises(UnknownClass, match="from 1 to 2"):
        belief.by_class(Question.about(served.manifest, (0, -3), (-3, 0)))


def test_every_candidate_list_is_within_reach_of_a_url(client: httpx.Client, red_png: bytes) -> None:
    """256 candidates fit in the header of a request."""
    among = "&".join(["among=class:0"] * 256)
    answer = client.post(f"/classify?{among}", content=red_png, headers=RAW).raise_for_status()
    assert ["Red bird"] == answer.json()["among"]


@pytest.mark.anyio
async def test_twenty_swaps_under_load_mix_nothing(tmp_path: Path) -> None:
    """A request is answered by one table or the other, never by parts of both."""
    put(tmp_path, "tiny/1", tiny_model())
    shares = ((1, 2, 3, 4), (4, 3, 2, 1))
    tables = ["class,May\n" + "".join(map("{},{}\n".format, LABELS, row)) for row in shares]
    (tmp_path / "tiny" / "priors.csv").write_text(tables[0])
    photo = encoded("black")  # all logits are 0: the answer is the prior
    async with started_runtime(tmp_path) as runtime:
        registry, predictor = runtime.models, runtime.predictor
        await registry.wait_ready()
        swapping, answers = True, set()

        async def ask() -> None:
            while swapping:
                belief = belief_of("May", [], served := registry.get())
                prediction = await predictor.predict(served, photo, Question.about(tiny_manifest()))
                answers.add(tuple(belief.applied(prediction).probabilities.round(6).tolist()))

        clients = [asyncio.create_task(ask()) for _ in range(8)]
        for number in range(1, 21):
            (tmp_path / "tiny" / "priors.csv").write_text(tables[number % 2])
            assert ["tiny/1"] == (await registry.reload())["loaded"]
        swapping = False
        await asyncio.gather(*clients)
    assert answers <= {tuple((np.float32(row) / 10).round(6).tolist()) for row in shares}
