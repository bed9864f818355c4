"""What the page says of photos like none of the classes, of short lists, and what users say back, in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.service.running import Running
from tests.service.tiny_model import LABELS

pytest.importorskip("websockets")
from tests.service.browser import CHROMIUM, Page, chromium, opened
from tests.service.http.site.test_page import answered, text

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

WITH_SETS = """(() => {
  const real = window.fetch;
  window.requests = [];
  window.fetch = async (path, options) => {
    window.requests.push(path);
    const response = await real(String(path).replace(/&coverage=0.9/, ""), options);
    if (!response.headers.get("content-type").includes("application/json")) return response;
    const body = await response.json();
    if (path === "models") body.models[0].sets = true;
    else if (path.includes("coverage=0.9")) {
      body.set = body.predictions.slice(0, 2).map((one) => one.label);
      body.taxon = {rank: "genus", name: "Avis"};
    }
    return new Response(JSON.stringify(body), {status: response.status, headers: response.headers});
  };
})()"""
"""Makes the service one whose model gives a short list of the two likeliest classes."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a tab."""
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a photo like those of a class, and one like none."""
    folder = tmp_path_factory.mktemp("photos")
    for colour in ("red", "white"):
        Image.new("RGB", (60, 40), colour).save(folder / f"{colour}.png")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def page(browser: Page, collecting: tuple[Running, Path]) -> Page:
    """Return the page of the server that collects feedback."""
    return opened(browser, collecting[0])


def lines(file: Path) -> list[dict[str, Any]]:
    """Return what is in a file of feedback."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_like_none_of_the_classes_in_words(page: Page, photos: dict[str, Path]) -> None:
    """It stands before the nearest name, which stays readable, and is read out; a known photo says nothing of it."""
    page.choose_files("#files", [photos["white"]])
    answered(page)
    assert "Like none of the 4 classes. Nearest:" == text(page, "kicker")
    assert text(page, "label") in LABELS
    assert page.run("live.textContent").startswith("Like none of the 4 classes. Nearest: ")
    assert "says where a picture is like none of them" in text(page, "knows")
    page.choose_files("#files", [photos["red"]])
    page.until(f"label.innerText === {json.dumps(LABELS[0])} && busy.hidden")
    assert ("This looks like", False) == (text(page, "kicker"), page.run("kicker.classList.contains('unlike')"))
    assert [] == page.complaints()


def test_right_with_the_keyboard(page: Page, photos: dict[str, Path], collecting: tuple[Running, Path]) -> None:
    """Enter on the button is all it takes; what was noted is shown, read out, and written."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    page.run("right.focus()")
    page.press("Enter", 13)
    page.until("right.ariaPressed === 'true'")
    assert "Thank you. Noted: right." == text(page, "feedback-note") == page.run("live.textContent")
    assert (LABELS[0], LABELS[0], True) == tuple(
        lines(collecting[1])[-1][name] for name in ("label", "predicted", "known")
    )
    assert [] == page.complaints()


def test_wrong_it_is(page: Page, photos: dict[str, Path], collecting: tuple[Running, Path]) -> None:
    """Another class by its label, then none: the last word on a photo counts, whatever was asked in between."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    page.run("wrong.click()")
    assert ["truth", "true", False] == page.run(
        "[document.activeElement.id, wrong.ariaExpanded, document.getElementById('correction').hidden]"
    )
    page.run("truth.value = 'Blue brid'; document.getElementById('feedback-form').requestSubmit()")
    page.until("!document.getElementById('feedback-note').hidden")
    assert "Not noted: no class is called “Blue brid”. Similar: Blue bird" in text(page, "feedback-note")
    page.run("truth.value = 'blue bird'; document.getElementById('feedback-form').requestSubmit()")
    page.until("document.getElementById('feedback-note').innerText === 'Thank you. Noted: Blue bird.'")
    assert [True, "wrong"] == page.run("[document.getElementById('correction').hidden, document.activeElement.id]")
    page.run(f"versus.value = {json.dumps(LABELS[1])}; document.getElementById('versus-form').requestSubmit()")
    page.until("!clear.hidden && busy.hidden")
    page.run("wrong.click(); none.click()")
    page.until("document.getElementById('feedback-note').innerText.includes('none of these classes')")
    first, last = lines(collecting[1])[-2:]
    assert (LABELS[2], None, LABELS[0]) == (first["label"], last["label"], last["predicted"])
    assert first["request_id"] == last["request_id"]
    page.run("wrong.click()")
    page.press("Escape", 27)
    assert ["wrong", True] == page.run("[document.activeElement.id, document.getElementById('correction').hidden]")


def test_no_feedback_where_none_is_collected(browser: Page, tiny_server: Running, photos: dict[str, Path]) -> None:
    """Neither buttons nor a word of it; a model without novelty is as before."""
    page = opened(browser, tiny_server)
    page.choose_files("#files", [photos["white"]])
    answered(page)
    assert [True, True] == page.run("['feedback-form', 'short'].map((id) => document.getElementById(id).hidden)")
    assert "Like none" not in text(page, "kicker")
    assert "gives one of them to any picture" in text(page, "knows")


def test_a_short_list_of_two_opens_their_contrast(
    page: Page, photos: dict[str, Path], collecting: tuple[Running, Path]
) -> None:
    """The list is in words with what is common to it; its button asks why the one and not the other."""
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=WITH_SETS)
    try:
        opened(page, collecting[0]).choose_files("#files", [photos["red"]])
        answered(page)
    finally:
        page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    one, other = page.run("[...document.querySelectorAll('#bars button span:not(.share)')].map((it) => it.innerText)")[
        :2
    ]
    holds = "The short list, which holds the right class for 9 of 10 photos"
    assert f"{holds}: {one} or {other}. All are of the genus Avis." == text(page, "short-words")
    button = "document.getElementById('short-contrast')"
    assert f"Why {one} and not {other}?" == page.run(f"{button}.innerText")
    page.run(f"{button}.click()")
    page.until("!clear.hidden && busy.hidden")
    assert [one, other, True] == page.run(f"[target.value, versus.value, {button}.hidden]")
    assert f"What speaks for {one} rather than {other}" == text(page, "caption")
    assert [] == page.complaints()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, ""),
        ({"set": ["a", "b"], "known": False}, ""),
        ({"set": ["a"], "known": True}, "Nothing else is on the short list, which HOLDS."),
        ({"set": ["a", "b"], "taxon": None}, "The short list, which HOLDS: a or b."),
        ({"set": list("abcdef")}, "The short list, which HOLDS: a, b, c, d, e or f."),
        (
            {"set": list("abcdefgh"), "taxon": {"rank": "genus", "name": "X"}},
            "The short list, which HOLDS: a, b, c, d, e or 3 others. All are of the genus X.",
        ),
    ],
)
def test_words_of_a_short_list(page: Page, answer: dict[str, Any], words: str) -> None:
    """One class, two, many; none is promised for a photo like none of the classes."""
    said = page.run(f"import('./page/verdict.js').then(({{ shortList }}) => shortList({json.dumps(answer)}))")
    assert words.replace("HOLDS", "holds the right class for 9 of 10 photos") == said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_feedback_on_a_phone(page: Page, photos: dict[str, Path], scheme: str) -> None:
    """Nothing is wider than the screen, every control is large enough, and all can be read."""
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        page.choose_files("#files", [photos["white"]])
        answered(page)
        page.run("right.click()")
        page.until("right.ariaPressed === 'true'")
        page.run("wrong.click()")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        heights = page.run(
            "[...document.querySelectorAll('#feedback-form button, #truth')].map((one) => one.offsetHeight)"
        )
        assert all(height >= 24 for height in heights)
        assert all(ratio >= 4.5 for ratio in page.run(CONTRAST))
    finally:
        for name in ("setDeviceMetricsOverride", "setEmulatedMedia"):
            page.call(f"Emulation.{name}", width=0, height=0, deviceScaleFactor=0, mobile=False, features=[])


CONTRAST = """(() => {
  const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3)
    .map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (of) => getComputedStyle(of).backgroundColor;
  return [...document.querySelectorAll('#kicker, #feedback-form button, #feedback-form p, #truth')].map((one) => {
    let below = one; while (ground(below) === 'rgba(0, 0, 0, 0)') below = below.parentElement;
    const [a, b] = [light(getComputedStyle(one).color), light(ground(below))].sort((a, b) => b - a);
    return (a + .05) / (b + .05); });
})()"""
"""Of text with what is behind it; WCAG 2.2 asks for 4.5."""
