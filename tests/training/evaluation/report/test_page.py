"""The report: what it says and does not say, its escaping, and how it behaves in a real browser."""

import importlib.util
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.training.evaluation.report.conftest import Contents, Make
from training.evaluation.figures import Figure
from training.evaluation.report.page import render, write_report

VOID = {"meta", "link", "img", "br"}


class Balanced(HTMLParser):
    """Checks that every element is closed, and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Elements of SVG may close themselves."""

    def handle_endtag(self, tag: str) -> None:
        """Close the last element."""
        assert self.open.pop() == tag, self.getpos()


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("located", [True, False])
def test_the_report_is_whole(make: Make, attention: bool, located: bool) -> None:
    """Closed elements, its own pictures only, figures with intervals, and where they come from."""
    page = render(make(attention=attention, located=located))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "66.7%" in page
    assert '30.0–90.3%, <span class="nb">n = 6</span>' in page
    assert "http" not in page
    assert page.count("<img") == page.count('src="data:image/jpeg;base64,')
    for text in ("c0ffee", "2026-01-02", "ab" * 32, "optim.epochs"):
        assert text in page
    assert (">attention</small>" in page) == attention


def test_marks_have_a_chapter_of_their_own(make: Make, marked: Contents) -> None:
    """Tables, cards and photos with numbers, names escaped; a network without marks is silent about them."""
    page = render(marked)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    for text in ("Where the marks are read", "Part by part", "Evidence in place", "Is seen what is there?"):
        assert f"<h3>{text}</h3>" in page
    assert "&lt;b&gt;red&lt;/b&gt; crown" in page
    assert "bill 🐦" in page
    assert "<b>red" not in page
    assert "Further figures" not in page, "figures of marks stand in their tables"
    assert page.count("<img") == page.count('src="data:image/jpeg;base64,')
    assert "marks" not in render(make()).lower()


def test_labels_are_escaped(make: Make) -> None:
    """Markup in a label or a title is text; other scripts stay as they are."""
    page = render(make())
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Grünfink &amp; Söhne" in page
    assert "翡翠" in page
    assert "<title>run &amp; &lt;i&gt;data&lt;/i&gt;</title>" in page


def test_maps_stand_beside_chance(make: Make) -> None:
    """All, right and wrong photos apart, with the centred Gaussian as a figure's neighbour."""
    page = render(make())
    for text in ("All photos", "Only photos that are named rightly", "Only photos that are named wrongly"):
        assert text in page
    assert "centred Gaussian:" in page
    assert 'class="chance"' in page
    assert "with the known box" in page


def test_nothing_is_said_of_boxes_where_there_are_none(make: Make) -> None:
    """The report says that the data say nothing of where things are."""
    page = render(make(located=False))
    body = re.sub(r"<[^>]*>", " ", page.partition("<body>")[2].lower())
    assert "the data say nothing of where things are" in body
    for word in ("box", "mask", "part ", "parts", "gaussian", "pointing"):
        assert word not in body, word


def test_sure_is_said_only_of_sure_photos(make: Make) -> None:
    """Of six photos, those with at least 90%."""
    contents = make()
    sure = int((contents.evaluation.probabilities.max(axis=1) >= 0.9).sum())
    page = render(contents)
    assert 0 < sure < 6
    undecided = page.partition("Undecided")[2].partition("<h3>")[0]
    assert undecided.count('class="tag">sure') == sure
    assert undecided.count('class="tag">') == 6


def test_further_figures_have_tables(make: Make, further: dict[str, Figure]) -> None:
    """Faithfulness, sanity, and figures without a table of their own."""
    contents = make()
    page = render(make(figures={**contents.figures, **further}))
    for text in ("Does the network use what the maps show?", "Do the maps depend on what was learnt?", "something new"):
        assert text in page
    assert "Grad-CAM minus random" in page
    assert "Further figures" not in render(contents)


def test_a_report_without_errors_shows_none(make: Make) -> None:
    """No confused pairs and no wrong photos; a model without a recipe says so."""
    page = render(make(right=True, recipe=None))
    assert "None: every photo gets its class." in page
    assert "<p>None.</p>" in page
    assert 'class="wrong"' not in page
    assert "does not say by which recipe" in page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Return a tab of Chromium."""
    if importlib.util.find_spec("websockets") is None:
        pytest.skip("no websockets here")
    from tests.service.browser import CHROMIUM, chromium

    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


CONTRAST = """
(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (colour.startsWith("rgb") && (channels(colour)[3] ?? 1) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const ratios = [...document.querySelectorAll("h1, h2, p, small, b, td, summary, a, .tag, .right, .wrong, .up, .down")]
    .map((element) => [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a))
    .map(([high, low]) => (high + 0.05) / (low + 0.05));
  return Math.min(...ratios);
})()
"""
"""The lowest contrast of text and ground on the page, by the formula of WCAG 2."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_report_in_a_browser(
    make: Make, further: dict[str, Figure], browser: object, tmp_path: Path, width: int, scheme: str
) -> None:
    """No requests, no errors, nothing wider than the screen, and text that can be read."""
    from tests.service.browser import Page

    assert isinstance(browser, Page)
    contents = make()
    path = tmp_path / "report.html"
    write_report(make(figures={**contents.figures, **further}), path)
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open("about:blank")
    browser.events.clear()
    browser.open(path.as_uri())
    browser.run("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    browser.run("Promise.all([...document.images].map((image) => { image.loading = 'eager'; return image.decode(); }))")
    assert browser.complaints() == []
    asked = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].every((image) => image.naturalWidth > 0)")
    assert browser.run(CONTRAST) >= 4.5
    dark = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 19)"
    assert dark == (scheme == "dark")
