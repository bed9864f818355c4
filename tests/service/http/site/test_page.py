"""The page, in a real browser against a real server."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from PIL import Image

from service.samples.plates import PLATES
from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import LABELS, marked_manifest, tiny_model

pytest.importorskip("websockets")
from tests.service.browser import CHROMIUM, Page, chromium, desk, opened

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
    return opened(browser, tiny_server)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return pictures: what the browser shows, one that only the service reads, one that nothing can read."""
    folder = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (60, 40), (250, 20, 20)).save(folder / "red.png")
    Image.new("RGB", (40, 60), (20, 20, 250)).save(folder / "blue.tif")
    for name, colour in (("spotted", (190, 0, 0)), ("elsewhere", (0, 255, 0))):
        with Image.new("RGB", (160, 80), colour) as photo:
            photo.paste((255, 0, 0), (110, 0, 120, 10))
            photo.save(folder / f"{name}.png")
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
    """The message names the word and similar classes; the word stays to be corrected, and the photo has its answer."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    page.run("versus.value = 'Gren bird'; document.getElementById('versus-form').requestSubmit()")
    page.until("!document.getElementById('versus-note').hidden && busy.hidden")
    assert text(page, "versus-note").startswith(f"No class is called “Gren bird”. Similar: {LABELS[1]}")
    assert ["Gren bird", LABELS[0], False, True, "true"] == page.run(
        "[versus.value, label.innerText, result.hidden, problem.hidden, versus.ariaInvalid]"
    )
    page.run("versus.value = 'Green bird'; document.getElementById('versus-form').requestSubmit()")
    page.until("!clear.hidden && busy.hidden")
    assert [True, "false"] == page.run("[document.getElementById('versus-note').hidden, versus.ariaInvalid]")


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


@pytest.fixture
def marked_page(browser: Page, marked_server: Running) -> Iterator[Page]:
    """Return the tab with the page of a model with marks."""
    yield opened(browser, marked_server)
    desk(browser)


def middle(page: Page, selector: str) -> tuple[float, float]:
    """Return the middle of an element, scrolled to, in the window."""
    x, y = page.run(
        f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
        "one.scrollIntoView({block: 'nearest'});"
        "const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] })()"
    )
    return x, y


def entry(number: int) -> str:
    """Return the selector of a mark in the list."""
    return f"#marks li:nth-child({number}) button"


def test_marks_in_words_and_in_place(marked_page: Page, photos: dict[str, Path]) -> None:
    """The class is answered with its marks in a sentence, in a list, and as numbers on the photo."""
    page = marked_page
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    words = "Red crown, red wing. Seen too, in a place that is not known: чёрный глаз."
    assert words == text(page, "words")
    assert 3 == page.run("document.querySelectorAll('#marks button').length")
    crown, eye = (page.run(f"document.querySelector({json.dumps(entry(number))}).innerText") for number in (1, 2))
    assert "red crown" in crown
    assert "typical 90%" in crown
    assert "its place is not known" in eye
    places = (
        "[...document.querySelectorAll('#places span')].map((one) => [one.textContent, one.style.left, one.style.top])"
    )
    assert [["1", "71.875%", "6.25%"], ["3", "71.875%", "6.25%"]] == page.run(places)
    assert [] == page.complaints()


def test_pointing_at_a_mark_shows_its_map(marked_page: Page, photos: dict[str, Path]) -> None:
    """While the mouse is over it; a click keeps it shown, a second one and Escape show the class's map again."""
    page = marked_page
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    of_class = page.run("layer.src")
    x, y = middle(page, entry(3))
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.until(f"layer.src !== {json.dumps(of_class)}")
    of_mark = page.run("layer.src")
    assert text(page, "caption").startswith("Where “red wing” is read")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    page.until(f"layer.src === {json.dumps(of_class)}")
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    page.until(f"layer.src === {json.dumps(of_mark)}")
    assert "true" == page.run(f"document.querySelector({json.dumps(entry(3))}).ariaPressed")
    page.press("Escape", 27)
    page.until(f"layer.src === {json.dumps(of_class)}")
    assert [] == page.complaints()


def test_marks_by_keyboard(marked_page: Page, photos: dict[str, Path]) -> None:
    """The focus alone shows a map, Enter keeps it and is announced, and leaving the list shows the class's map."""
    page = marked_page
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    of_class = page.run("layer.src")
    page.press("Tab", 9)
    page.run(f"document.querySelector({json.dumps(entry(1))}).focus({{focusVisible: true}})")
    page.until(f"layer.src !== {json.dumps(of_class)}")
    page.press("Tab", 9)
    page.until("caption.textContent.includes('чёрный глаз')")
    page.press("Enter", 13)
    page.until("document.activeElement.ariaPressed === 'true'")
    assert "чёрный глаз" in page.run("live.textContent")
    page.press("Enter", 13)
    page.run("target.focus()")
    page.until(f"layer.src === {json.dumps(of_class)}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_on_a_phone(marked_page: Page, photos: dict[str, Path], scheme: str) -> None:
    """A tap shows a mark's map while the photo is in sight, nothing is wider than the screen, and all can be read."""
    page = marked_page
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    of_class = page.run("layer.src")
    x, y = middle(page, entry(1))
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.until(f"layer.src !== {json.dumps(of_class)}")
    assert page.run("stage.getBoundingClientRect().bottom > 100")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    # WCAG 2.2: 4.5 for text, and a target of at least 24 pixels.
    contrast = """(() => {
      const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3)
        .map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b; };
      return [...document.querySelectorAll('#marks .name, #marks .how, #marks .number')].map((one) => {
        const ground = (of) => getComputedStyle(of).backgroundColor;
        let below = one; while (ground(below) === 'rgba(0, 0, 0, 0)') below = below.parentElement;
        const [a, b] = [light(getComputedStyle(one).color), light(ground(below))].sort((a, b) => b - a);
        return (a + .05) / (b + .05); });
    })()"""
    assert all(ratio >= 4.5 for ratio in page.run(contrast))
    assert all(
        size >= 24
        for size in page.run("[...document.querySelectorAll('#marks button')].map((one) => one.offsetHeight)")
    )


def test_why_this_and_not_that_in_words(marked_page: Page, photos: dict[str, Path]) -> None:
    """The contrast is answered in words first: the marks that distinguish them, and what both classes have of them."""
    page = marked_page
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    page.run(f"versus.value = {json.dumps(LABELS[3])}; document.getElementById('versus-form').requestSubmit()")
    page.until("!clear.hidden && busy.hidden")
    assert f"Red crown, red wing; {LABELS[0]} rather than {LABELS[3]}." == text(page, "words")
    assert f"What tells {LABELS[0]} from {LABELS[3]}" == text(page, "marks-title")
    assert f"typical 90% ({LABELS[3]} 40%)" in page.run(f"document.querySelector({json.dumps(entry(1))}).innerText")
    page.run(f"target.value = {json.dumps(LABELS[3])}; versus.value = {json.dumps(LABELS[0])}")
    page.run("document.getElementById('versus-form').requestSubmit()")
    page.until("words.textContent.startsWith('No field mark')")
    missing = f"Not seen, though typical of {LABELS[3]}, and less so of {LABELS[0]}: green throat (70%)."
    assert missing == text(page, "missing")


def test_words_that_the_decision_did_not_use(marked_page: Page, photos: dict[str, Path]) -> None:
    """A mark that is seen away from the class's evidence says so."""
    page = marked_page
    page.choose_files("#files", [photos["elsewhere"]])
    answered(page)
    page.run("[...document.querySelectorAll('#bars button')].find((one) => one.innerText.includes('Red')).click()")
    page.until("marks.innerText.includes('green throat') && caption.textContent.includes('Red') && busy.hidden")
    weak = "document.querySelector('#marks .weak').parentElement.innerText"
    assert "green throat" in page.run(weak)
    assert "seen, but not where the decision looked" in page.run(weak)
    words = text(page, "words")
    assert "Seen, but not where the decision looked: green throat. " in words
    assert "Green throat" not in words


def test_words_where_nothing_speaks_for_the_class(page: Page) -> None:
    """Evidence that is not known is not said to be elsewhere."""
    seen = [
        {"name": "red crown", "at": [1, 2], "evidence": None},
        {"name": "blue wing", "at": [1, 2], "evidence": 0.5},
    ]
    result = json.dumps({"marks": seen, "target": {"label": "Red bird"}})
    said = page.run(f"import('./page/marks.js').then(({{ sentence }}) => sentence({result}))")
    assert "Seen, but not where the decision looked: blue wing. Seen: red crown." == said


@pytest.mark.parametrize(
    ("across", "expected"),
    [
        ((20, 17, 60), [["20%", "0"], ["20%", "1"], ["60%", "0"]]),
        ((95, 97, 96), [["95%", "0"], ["95%", "-1"], ["95%", "-2"]]),
    ],
)
def test_numbers_near_each_other_stand_in_a_row(page: Page, across: tuple[int, ...], expected: list[list[str]]) -> None:
    """The row starts at the first of them, and runs away from the photo's right edge."""
    marks = [{"name": str(x), "at": [x, 40]} for x in across]
    result = json.dumps({"marks": marks, "width": 100, "height": 80})
    made = "(tag, properties) => Object.assign(document.createElement(tag), properties)"
    assert expected == page.run(
        f"import('./page/marks.js').then(({{ places }}) => places({result}, {made})"
        ".map((one) => [one.style.left, one.style.getPropertyValue('--row')]))"
    )


def test_an_empty_map_of_a_mark_is_not_taken_for_the_classes(
    browser: Page, photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its caption says that the place is not known; what is said of a class without evidence is left out."""

    def empty_maps(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.output[0] == "all_maps")
        node.op_type, node.input[1] = "Sub", node.input[0]

    folder = tmp_path_factory.mktemp("models")
    settings = tiny_settings(folder)
    (folder / "tiny" / "1.onnx").write_bytes(tiny_model(marked_manifest(), edit=empty_maps))
    with running(settings) as server:
        browser.open(f"{server.url}/")
        browser.until("document.getElementById('model').textContent")
        browser.choose_files("#files", [photos["spotted"]])
        answered(browser)
        browser.run(f"document.querySelector({json.dumps(entry(1))}).click()")
        browser.until("caption.textContent.startsWith('Where “red crown” is read')")
        assert ["Where “red crown” is read: its place is not known", True] == browser.run(
            "[caption.textContent, note.hidden]"
        )


def test_a_model_without_marks_has_no_list(page: Page, photos: dict[str, Path]) -> None:
    """Neither the list nor the words nor the button are there."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    assert [True] * 4 == page.run(
        "['marks-box', 'words', 'save-marks', 'about-marks'].map((id) => document.getElementById(id).hidden)"
    )
    assert 0 == page.run("document.querySelectorAll('#places span').length")


def test_the_page_outlives_a_model_with_marks(
    browser: Page, photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where a version without marks takes over, the next photo is answered without them."""
    folder = tmp_path_factory.mktemp("models")
    settings = tiny_settings(folder, poll_interval_s=3600)
    (folder / "tiny" / "2.onnx").write_bytes(tiny_model(marked_manifest()))
    with running(settings) as server:
        browser.open(f"{server.url}/")
        browser.until("document.getElementById('model').textContent")
        (folder / "tiny" / "2.onnx").unlink()
        asyncio.run_coroutine_threadsafe(server.runtime.models.reload(), server.loop).result()
        browser.choose_files("#files", [photos["red"]])
        answered(browser)
        assert (LABELS[0], True) == (text(browser, "label"), browser.run("document.getElementById('marks-box').hidden"))


def test_only_the_last_of_two_questions_is_asked(page: Page, tiny_server: Running, photos: dict[str, Path]) -> None:
    """Who asks again before the request has left costs the service one run."""
    page.choose_files("#files", [photos["red"]])
    answered(page)
    runs = tiny_server.runs()
    page.run(f"versus.value = {json.dumps(LABELS[1])}; document.getElementById('versus-form').requestSubmit()")
    page.until("!clear.hidden && busy.hidden")
    assert runs + 1 == tiny_server.runs()
    page.run("clear.click(); document.getElementById('versus-form').requestSubmit()")
    page.until("!clear.hidden && busy.hidden")
    assert runs + 2 == tiny_server.runs()


def test_plates_are_classified_as_photos_are(browser: Page, bundled_server: Running) -> None:
    """Who has no photo picks a drawn bird, by key too; the one without its mark is none to the model."""
    browser.open("about:blank")
    browser.events.clear()
    browser.open(f"{bundled_server.url}/")
    browser.until("document.querySelectorAll('#plates button').length")
    pictures = browser.run("[...document.querySelectorAll('#plates img')].map((one) => [one.loading, one.alt])")
    assert [["lazy", ""]] * 2 * len(PLATES) == pictures
    for index in range(2):
        browser.run(f"document.querySelectorAll('#plates button')[{index}].focus()")
        browser.press("Enter", 13)
        if index:  # the strip appears with the second picture
            browser.until("document.querySelectorAll('#strip button').length === 2")
        answered(browser)
        assert (PLATES[0].label == text(browser, "label")) == (index == 0)
    browser.until("[...document.querySelectorAll('#plates img')].every((one) => one.complete && one.naturalWidth)")
    assert [] == browser.complaints()


def test_a_model_of_other_things_offers_no_plates(page: Page) -> None:
    """A drawn bird would get the name of something else."""
    page.until("document.querySelectorAll('#labels option').length")
    assert [True, 0] == page.run("[document.getElementById('plates-box').hidden, plates.children.length]")


def test_page_without_its_plates_is_small() -> None:
    """What every visitor loads stays below 150 kB."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 150_000


def test_key_is_asked_for_behind_a_prefix(
    browser: Page, photos: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The page of a guarded server asks for the key; its addresses are relative, so that a path prefix works."""
    keys = tmp_path / "keys"
    keys.write_text("correct-horse-battery-staple\n")
    with running(tiny_settings(tmp_path_factory.mktemp("models"), api_keys_file=keys)) as server:
        browser.open(f"{server.url}/")
        browser.until("!problem.hidden")
        browser.run("key.value = 'ключ'; document.getElementById('key-form').requestSubmit()")
        assert "That is no key" in text(browser, "problem-detail")
        assert browser.run("!document.getElementById('key-form').hidden && !sessionStorage.length")
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
