"""The page in a real browser: plots drawn, slider by keyboard, no sideways scrolling, no error, and readable with scripts off."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest

from ablate.data import datasets
from ablate.report.builder import build, read
from ablate.report.render.html import to_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="playwright is not installed: pip install -e '.[dev]'"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
ALONE = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
ALONE += ("--disable-component-update", "--disable-sync")
ODD = "odd+<b>&'\""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = pages.make(tmp_path_factory.mktemp("browser"), {**pages.TRUTH, ODD: 3.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "EMBEDDED_DIGEST", pages.DIGEST)
        text = to_html(build(read(folder)), folder)
    (folder / "report.html").write_text(text, "utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api

    with sync_api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=list(ALONE))
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str]]]:
    """The page at a width, scrolled through once, and what the browser complained of or asked the network for."""
    options: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}} | getattr(request, "param", {})
    context, said = browser.new_context(**options), []
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(("data:", address)) else said.append(sent.url))
    page.goto(address)
    if options.get("java_script_enabled", True):
        for figure in page.query_selector_all("figure.plot"):
            figure.scroll_into_view_if_needed()
            page.wait_for_function("figure => figure.dataset.drawn === 'yes'", arg=figure)
    yield page, said
    context.close()


NARROW = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}


@pytest.mark.parametrize("opened", [{}, NARROW], indirect=True, ids=["desktop", "phone, dark"])
def test_plots_are_drawn_without_complaint_or_sideways_scrolling(opened: tuple[Any, list[str]]) -> None:
    page, said = opened
    assert page.locator("figure.plot .drawing svg").count() == page.locator("figure.plot").count() >= 8
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    drawn = page.locator("#differences-fd .drawing svg").bounding_box()
    assert drawn["width"] <= page.locator("#differences-fd").bounding_box()["width"]
    assert page.locator("#differences-fd text", has_text=ODD).count() >= 1
    cut = """() => [...document.querySelectorAll("figure.plot")].flatMap((figure) =>
      [...figure.querySelectorAll("svg text")].filter((text) =>
        text.getBoundingClientRect().right > figure.getBoundingClientRect().right + 1)
      .map((text) => `${figure.id}: ${text.textContent}`))"""
    assert page.evaluate(cut) == []
    assert said == []


def test_the_colours_follow_the_scheme(browser: Any, address: str) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        label = "getComputedStyle(document.querySelector('#differences-fd svg text')).fill"
        seen[scheme] = (page.evaluate("getComputedStyle(document.body).backgroundColor"), page.evaluate(label))
        page.close()
    assert seen == {
        "light": ("rgb(255, 255, 255)", "rgb(27, 31, 36)"),
        "dark": ("rgb(20, 23, 26)", "rgb(232, 234, 237)"),
    }


def test_a_print_keeps_cards_whole_and_headings_with_what_follows(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.emulate_media(media="print")
    style = "(what) => getComputedStyle(document.querySelector(what[0]))[what[1]]"
    assert page.evaluate(style, ["figure.plot", "breakInside"]) == "avoid"
    assert (
        page.evaluate(style, ["h2", "breakAfter"]) == page.evaluate(style, ["figure.plot h3", "breakAfter"]) == "avoid"
    )
    # The last part of a card must not be tied to the next card: then no break between them is left.
    assert page.evaluate(style, ["figure.plot figcaption", "breakAfter"]) == "auto"
    assert page.evaluate(style, ["details:not([open])", "display"]) == "none"
    page.close()


def test_the_sliders_work_by_keyboard(opened: tuple[Any, list[str]]) -> None:
    page, said = opened
    slider, step = page.locator("#right"), page.locator("#step")
    labels = [str(image.get_attribute("data-label")) for image in page.locator("#samples .strip img").all()]
    assert slider.get_attribute("aria-valuetext") == labels[1]
    before = page.locator("#right-img").get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == page.locator("#right-caption").text_content() == labels[2]
    assert page.locator("#right-img").get_attribute("src") != before
    assert page.locator("#left-img").get_attribute("src") == page.locator("#samples .strip img").first.get_attribute(
        "src"
    )
    step.focus()
    page.keyboard.press("Home")
    assert step.get_attribute("aria-valuetext") == "step 187"
    assert "187 steps" in str(page.locator("#left-img").get_attribute("alt"))
    assert said == []


def test_a_choice_changes_what_is_drawn(opened: tuple[Any, list[str]]) -> None:
    page, _ = opened
    before = page.locator("#denoising .drawing svg").inner_html()
    page.locator("#denoising select").select_option("pd")
    page.wait_for_timeout(300)
    assert page.locator("#denoising .drawing svg").inner_html() != before


def test_focus_is_seen_and_the_first_stop_skips_to_the_findings(opened: tuple[Any, list[str]]) -> None:
    page, _ = opened
    page.evaluate("window.scrollTo(0, 0)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


OFF = {"java_script_enabled": False, "viewport": {"width": 390, "height": 844}}


@pytest.mark.parametrize("opened", [OFF], indirect=True, ids=["phone"])
def test_it_is_readable_with_scripts_off(opened: tuple[Any, list[str]]) -> None:
    page, said = opened
    assert page.locator("figure.plot .drawing svg").first.is_visible()
    assert not page.locator(".explorer").is_visible()
    assert page.locator("#samples .strip img").first.is_visible()
    assert page.locator("#verdicts .lead").first.inner_text().startswith("By fd, no_drift and odd")
    assert said == []


def test_it_can_be_kept_as_a_file_and_opened_elsewhere(browser: Any, address: str, tmp_path: Path) -> None:
    copy = tmp_path / "a copy, with öddities #1.html"
    shutil.copy(Path(address.removeprefix("file://")), copy)
    page = browser.new_page()
    page.goto(copy.as_uri())
    assert page.title().startswith("Ablation study of 5 variants")
    page.close()
