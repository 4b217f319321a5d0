"""The page in headless Chromium: by mouse and by keyboard, narrow and dark, without a request to anybody else."""

from __future__ import annotations

import base64
import json
import os
from urllib.parse import urlsplit

import pytest

from tests.reporting.browser import browser, find_browser
from tests.serving.conftest import serving
from vlmadapt.serving.answer import Answers

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
LOOKED_AT = os.environ.get("VLMADAPT_SCREENSHOTS")  # a folder to keep the pictures of the page in


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    executable = find_browser()
    assert executable is not None
    with browser(executable, tmp_path_factory.mktemp("profile")) as page:
        yield page


def visit(page, place):
    page.errors.clear()
    page.requests.clear()
    page.call("Page.navigate", url=place.url)
    page.until("document.readyState === 'complete' && document.querySelectorAll('#names li').length > 0")


def give(page, path):
    """Choose a file, as the file dialog would."""
    document = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def only_here(page, place):
    return all(
        urlsplit(address).scheme in ("data", "blob") or urlsplit(address).port == place.port
        for address in page.requests
    )


def test_a_chosen_picture_gets_classes_and_evidence(page, place, world, classifier):
    visit(page, place)
    picture = world / "test" / "leaf" / "0.png"
    give(page, picture)
    page.until("!document.querySelector('#result').hidden")
    expected = classifier.predict([picture], votes=8)[0]
    assert page.run("document.querySelector('#answer').textContent") == expected.classes[0][0]
    rows = page.run("[...document.querySelectorAll('#classes th')].map(each => each.textContent)")
    assert rows == [name for name, _ in classifier.predict([picture], top=5)[0].classes]
    votes = page.run("[...document.querySelectorAll('#votes img')].map(each => [each.naturalWidth, each.alt])")
    assert len(votes) == len(expected.votes) and all(width > 0 and "support picture" in alt for width, alt in votes)
    page.until("document.querySelector('#picture').naturalWidth > 0")
    assert page.run("document.activeElement.id") == "answer"
    assert page.errors == [] and only_here(page, place)


def test_a_dropped_picture_gets_an_answer(page, place, world):
    visit(page, place)
    data = base64.b64encode((world / "test" / "sun" / "1.png").read_bytes()).decode()
    page.run(f"""(() => {{
        const bytes = Uint8Array.from(atob({json.dumps(data)}), (each) => each.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "<script>alert(1)</script>.png", {{ type: "image/png" }}));
        document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: transfer, bubbles: true, cancelable: true }}));
    }})()""")
    page.until("!document.querySelector('#result').hidden")
    assert page.run("document.querySelectorAll('#classes tr').length") == 4 and page.errors == []


def test_the_keyboard_reaches_the_file_and_shows_where_it_is(page, place):
    visit(page, place)
    page.press("Tab")
    assert page.run("document.activeElement.id") == "file"
    assert page.run("getComputedStyle(document.querySelector('#drop')).outlineStyle") == "solid"
    page.press("Tab")
    assert page.run("document.activeElement.tagName") == "SUMMARY"


def test_what_is_no_picture_is_said(page, place, tmp_path):
    visit(page, place)
    (tmp_path / "no.png").write_text("no picture")
    give(page, tmp_path / "no.png")
    page.until("document.querySelector('#status').className === 'wrong'")
    assert page.run("document.querySelector('#status').textContent").startswith("Error: the picture")
    assert page.run("document.querySelector('#result').hidden")


def test_the_token_of_the_address_goes_with_every_request(page, classifier, world):
    with serving(Answers(classifier), "0.0.0.0") as place:
        visit(page, place)
        give(page, world / "test" / "fish" / "0.png")
        page.until("!document.querySelector('#result').hidden")
        assert page.errors == []


CONTRAST = """(() => {
  const light = (text) => { const [r, g, b] = text.match(/[0-9.]+/g).map(each => each / 255)
    .map(each => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return ["body", "#about", "#drop strong", "caption"].map(each => {
    const ink = light(getComputedStyle(document.querySelector(each)).color);
    return (Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05); });
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_every_screen_and_can_be_read(page, place, world, width, dark, tmp_path):
    page.look(width, dark=dark)
    visit(page, place)
    give(page, world / "test" / "apple" / "0.png")
    page.until("!document.querySelector('#result').hidden")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert min(page.run(CONTRAST)) >= 4.5
    folder = tmp_path if LOOKED_AT is None else type(tmp_path)(LOOKED_AT)
    assert page.screenshot(folder / f"serve-{width}-{'dark' if dark else 'light'}.png").stat().st_size > 1000
