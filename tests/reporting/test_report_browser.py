"""The report in headless Chromium: its charts are drawn, its filters work, nothing runs or is asked for beside it."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.reporting.browser import browser, find_browser
from tests.reporting.reports import NAMES, classifier_of, compared, evaluated, evil_world
from vlmadapt.errors import shown
from vlmadapt.reporting.report.compare import compare_report
from vlmadapt.reporting.report.evaluation import evaluation_report

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed (apt-get install chromium)")
DRAWN = "document.documentElement?.dataset.drawn === 'yes'"
SHOWN = "[...document.querySelectorAll('.cards > li')].filter((e) => !e.hidden).length"
WIDTHS = (360, 768, 1280)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evil reports")
    dataset = evil_world(folder)
    classifier = classifier_of(dataset)
    return {
        "compare": compare_report(compared(dataset), dataset).write(folder / "compare.html"),
        "eval": evaluation_report(evaluated(classifier, dataset)).write(folder / "eval <b>&.html"),
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(find_browser() or "", tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def nothing_but_the_page(page, path):
    """No error on the console, no script of a name, no request beside the file."""
    assert page.errors == []
    asked = {address for address in page.requests if not address.startswith("data:")}
    assert asked == {path.resolve().as_uri()}
    assert "evil" not in page.run("document.title").replace(shown(NAMES["apple"]), "")


@pytest.mark.parametrize("kind", ["compare", "eval"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_charts_are_drawn_at_every_width(reports, page, kind, width, dark, tmp_path):
    page.look(width, dark=dark, touch=width < 500)
    page.open(reports[kind], DRAWN)
    nothing_but_the_page(page, reports[kind])
    charts = page.run("[...document.querySelectorAll('.plot')].map((e) => e.querySelectorAll('.main-svg').length)")
    assert len(charts) >= 3 and min(charts) >= 1
    assert page.run("document.documentElement.scrollWidth <= innerWidth")  # the page itself never moves sideways
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    picture = Image.open(page.screenshot(tmp_path / "shot.png")).convert("RGB")
    assert len(picture.getcolors(1 << 24) or ()) > 50


@pytest.mark.parametrize("kind", ["compare", "eval"])
def test_names_are_shown_as_they_are(reports, page, kind):
    page.look(1280)
    page.open(reports[kind], DRAWN)
    said = page.run("document.body.textContent + [...document.querySelectorAll('text')].map((e) => e.textContent)")
    assert all(shown(name) in said for name in NAMES.values())
    ticks = page.run("[...document.querySelectorAll('.ytick text')].map((e) => e.textContent)")
    assert any(tick.startswith("fish\"'><img src=x") for tick in ticks)
    assert page.run("document.querySelectorAll('.plot a, .plot img').length") == 0
    nothing_but_the_page(page, reports[kind])


def test_filters_work_by_mouse(reports, page):
    page.look(1280)
    page.open(reports["eval"], DRAWN)
    every = page.run(SHOWN)
    assert every > 1
    page.run("document.querySelector('.gallery select').selectedIndex = 1")
    page.run("document.querySelector('.gallery select').dispatchEvent(new Event('change'))")
    some = page.run(SHOWN)
    assert 0 < some < every
    assert page.run("document.querySelector('[role=status]').textContent").startswith(f"{some} of {some} shown")
    page.click(".gallery .reset")
    assert page.run(SHOWN) == every
    page.click(".gallery input")
    page.type("no such file anywhere")
    assert page.run(SHOWN) == 0
    page.click(".gallery .reset")
    assert page.run(SHOWN) == every
    assert page.errors == []


def test_everything_can_be_reached_and_used_by_keyboard(reports, page):
    page.look(1280)
    page.open(reports["eval"], DRAWN)
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    page.until("document.activeElement.id === 'main'")
    reached = []
    for _ in range(60):
        page.press("Tab")
        reached.append(page.run("document.activeElement.tagName + '.' + document.activeElement.className"))
        if reached[-1] == "SELECT.":
            break
    assert reached[-1] == "SELECT." and "SUMMARY." in reached
    every = page.run(SHOWN)
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press("ArrowDown")  # the first class; a closed menu changes at once
    page.until(f"{SHOWN} < {every}")
    page.press("Tab")
    page.press("Tab")
    assert page.run("document.activeElement.type") == "search"
    page.press("Tab")
    page.press("Enter")
    page.until(f"{SHOWN} === {every}")
    assert page.run("document.activeElement.type") == "search"  # where one goes on
    page.run("document.querySelector('#theme').focus()")
    page.press("Enter")
    page.until("document.documentElement.dataset.theme === 'dark'")
    page.until("getComputedStyle(document.body).backgroundColor !== 'rgb(255, 255, 255)'")
    assert page.errors == []


def test_a_menu_changes_the_chart(reports, page):
    page.look(1280)
    page.open(reports["compare"], DRAWN)
    cells = "JSON.stringify(document.querySelector('[data-figure=confusion]').data[0].z)"
    before = page.run(cells)
    page.run("document.querySelector('#confusion-menu').focus()")
    page.press("End")
    page.until(f"{cells} !== {before!r}")
    assert page.errors == []


def test_long_galleries_unfold_by_and_by(reports, page, tmp_path):
    text = reports["eval"].read_text(encoding="utf-8")
    first = text[text.index("<li data-facets") :]
    card = first[: first.index("</li><li data-facets") + 5]
    long = tmp_path / "long.html"
    long.write_text(text.replace(card, card * 60, 1), encoding="utf-8")
    page.open(long, DRAWN)
    assert page.run(SHOWN) == 24
    page.click(".more")
    assert page.run(SHOWN) == 48
    assert page.run("[...document.querySelectorAll('.cards > li')].indexOf(document.activeElement)") == 24
    nothing_but_the_page(page, long)


def test_without_scripts_and_on_paper_the_tables_are_there(reports, page):
    page.look(1280)
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.call("Page.navigate", url=reports["eval"].resolve().as_uri())
        page.until("document.readyState === 'complete' && document.querySelector('main') !== null")
        folded = page.run("[...document.querySelectorAll('details.data')].map((e) => e.open)")
        assert folded and all(folded)
        assert page.run("document.querySelector('.plot').offsetParent") is None
        assert page.run("getComputedStyle(document.querySelector('noscript')).display") != "none"
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    page.open(reports["eval"], DRAWN)
    assert not page.run("document.querySelector('details.data').open")
    assert page.printed().startswith(b"%PDF")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("[...document.querySelectorAll('details.data')].every((e) => e.open)")
    page.run("dispatchEvent(new Event('afterprint'))")
    assert not page.run("document.querySelector('details.data').open")
    assert page.errors == []


def test_a_script_in_the_page_would_not_run(reports, page, tmp_path):
    """Were a name to escape after all, the policy stops it."""
    text = reports["eval"].read_text(encoding="utf-8")
    hurt = tmp_path / "hurt.html"
    evil = "<script>document.title='evil'</script><img src=x onerror=\"document.title='evil'\">"
    hurt.write_text(text.replace("<header>", f"<header>{evil}<img src='https://example.org/x.png'>"), encoding="utf-8")
    page.open(hurt, DRAWN)
    assert page.run("document.title") != "evil"
    assert any("Content Security Policy" in error for error in page.errors)
