"""The page, in a real browser against a real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import LABELS

pytest.importorskip("websockets")
from tests.service.browser import CHROMIUM, Page, chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
FOLDER = Path(__file__).parents[4] / "service" / "http" / "site" / "page"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a tab."""
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, tiny_server: Running) -> Page:
    """Return the tab with the page freshly loaded and its events cleared."""
    browser.open("about:blank")
    browser.events.clear()
    browser.open(f"{tiny_server.url}/")
    browser.until("document.getElementById('model').textContent")
    return browser


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return pictures: one the browser shows, one that only the service reads, one that nothing can read."""
    folder = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (60, 40), (250, 20, 20)).save(folder / "red.png")
    Image.new("RGB", (40, 60), (20, 20, 250)).save(folder / "blue.tif")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 50)
    return {path.stem: path for path in folder.iterdir()}


def text(page: Page, identity: str) -> str:
    """Return an element's text."""
    found: str = page.run(f"document.getElementById({json.dumps(identity)}).innerText")
    return found


def answered(page: Page) -> None:
    """Wait until the shown photo has its answer."""
    page.until("document.querySelectorAll('#bars button').length && document.getElementById('busy').hidden")


def test_photo_gets_class_bars_and_map(page: Page, photos: dict[str, Path]) -> None:
    """Choose a photo: its class, the bars and the map over it appear, and nothing violates the policy."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    assert LABELS[0] == text(page, "label")
    assert len(LABELS) == page.run("document.querySelectorAll('#bars button').length")
    page.until("document.getElementById('layer').complete && !document.getElementById('layer').hidden")
    ratio = page.run("document.getElementById('stage').clientWidth / document.getElementById('stage').clientHeight")
    assert pytest.approx(1.5, abs=0.02) == ratio
    assert [] == page.complaints()


def test_views_opacity_and_colours(page: Page, photos: dict[str, Path]) -> None:
    """The map can be hidden, faded, changed for the attention, and recoloured."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    page.run("document.querySelector('input[value=photo]').click()")
    assert page.run("document.getElementById('layer').hidden")
    page.run("document.querySelector('input[value=attention]').click()")
    assert "before it decides" in text(page, "caption")
    page.run("opacity.value = 20; opacity.dispatchEvent(new Event('input'))")
    assert ["0.2", "20%"] == page.run("[layer.style.opacity, document.getElementById('opacity-value').value]")
    before = page.run("layer.src")
    page.run("colormap.value = 'viridis'; colormap.dispatchEvent(new Event('change'))")
    page.until(f"layer.src !== {json.dumps(before)} && busy.hidden")
    assert [] == page.complaints()


def test_another_class_by_keyboard(page: Page, photos: dict[str, Path]) -> None:
    """A class of the list can be explained with the keyboard alone, and the focus stays there."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    page.run("document.querySelectorAll('#bars button')[1].focus()")
    second = page.run("document.activeElement.children[1].textContent")
    page.press("Enter", 13)
    page.until(f"caption.textContent.includes({json.dumps(second)}) && busy.hidden")
    assert "true" == page.run("document.querySelectorAll('#bars button')[1].getAttribute('aria-pressed')")


def test_why_this_and_not_that(page: Page, photos: dict[str, Path]) -> None:
    """The difference of two classes, its reverse, and the way back."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    page.run(f"versus.value = {json.dumps(LABELS[2])}; document.getElementById('versus-form').requestSubmit()")
    page.until("!clear.hidden && busy.hidden")
    assert f"What speaks for {LABELS[0]} rather than {LABELS[2]}" == text(page, "caption")
    page.run("document.querySelector('input[value=gradcam_versus]').click()")
    assert f"What speaks for {LABELS[2]} rather than {LABELS[0]}" == text(page, "caption")
    page.run("clear.click()")
    page.until("clear.hidden && busy.hidden")
    assert text(page, "caption").startswith(f"What speaks for {LABELS[0]} (")


def test_unknown_class_is_explained(page: Page, photos: dict[str, Path]) -> None:
    """A misspelt class is answered with the similar ones."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    page.run("versus.value = 'Gren bird'; document.getElementById('versus-form').requestSubmit()")
    page.until("!problem.hidden")
    assert LABELS[1] in text(page, "problem-detail")


def test_several_photos(page: Page, photos: dict[str, Path]) -> None:
    """Each has its place: a good one, one the browser cannot show itself, and a broken one with its reason."""
    page.choose_files("#files", [photos["red"], photos["blue"], photos["broken"]])
    page.until("[...document.querySelectorAll('#strip span')].every((one) => one.textContent !== '…')")
    assert LABELS[0] == text(page, "label")
    page.run("document.querySelectorAll('#strip button')[1].click()")
    page.until("photo.complete && photo.naturalWidth > 0 && busy.hidden")
    assert LABELS[2] == text(page, "label")
    page.run("document.querySelectorAll('#strip button')[2].click()")
    page.until("!problem.hidden")
    assert "cannot be decoded" in text(page, "problem-title")
    assert page.run("result.hidden")


def test_key_is_asked_for_behind_a_prefix(
    browser: Page, photos: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The page of a guarded server asks for the key; its addresses are relative, so that a path prefix works."""
    keys = tmp_path / "keys"
    keys.write_text("correct-horse-battery-staple\n")
    with running(tiny_settings(tmp_path_factory.mktemp("models"), api_keys_file=keys)) as server:
        browser.open(f"{server.url}/")
        browser.until("!problem.hidden")
        browser.run("key.value = 'correct-horse-battery-staple'; document.getElementById('key-form').requestSubmit()")
        browser.until("document.getElementById('model').textContent")
        browser.choose_files("#files", [photos["red"]])
        answered(browser)
        assert LABELS[0] == text(browser, "label")


def test_page_names_no_absolute_address() -> None:
    """Every address in the page's files is relative, so that it works behind a path prefix and offline."""
    for path in FOLDER.iterdir():
        content = path.read_text().replace("http://www.w3.org/2000/svg", "")
        for sign in (
            "http://",
            "https://",
            'href="/',
            'src="/',
            "fetch(`/",
            'fetch("/',
            'style="',
            "<script>",
            "onclick=",
        ):
            assert sign not in content, (path.name, sign)
