"""The page in a browser: sorting, filtering, reading values, no errors and no requests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from written_logs import log_maker

from concert.certificates import Guarantee
from concert.data import ImageSet
from concert.evaluation.page.page import PageExtras
from concert.evaluation.report import write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
EVIL = "<img src=x onerror=alert(2)>"
CLASSES = ["cat", "dog", EVIL]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images: three are wrong, three are abstained from, the radii are all different."""
    outcomes = [
        (
            i % 3,
            -1 if i % 20 == 7 else (i + 1) % 3 if i % 20 == 3 else i % 3,
            0.0 if i % 20 == 7 else 0.01 * (i + 1),
        )
        for i in range(60)
    ]
    tmp_path = tmp_path_factory.mktemp("page")
    make_log = log_maker(tmp_path)
    info = {"data": "mine", "classes": CLASSES}
    logs = [
        make_log(outcomes, "a", identity={"alpha": 0.001}, method="Cohen", sigma="0.25", **info),
        make_log(outcomes[:30], "b", [Guarantee.FROZEN], method="Concert", **info),
    ]
    pixels = torch.randint(0, 256, (60, 1, 6, 6), dtype=torch.uint8)
    images = ImageSet("mine", "test", pixels, torch.arange(60) % 3, CLASSES)
    write_report(logs, tmp_path / "report", extras=PageExtras(images))
    return tmp_path / "report" / "report.html"


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, which must neither complain nor ask for anything, whatever is done with it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    context.close()


def numbers(page: Any) -> list[int]:
    return [int(text) for text in page.locator("#image-rows th").all_inner_texts()]


def head(page: Any, key: str) -> Any:
    return page.locator(f"#image-table [data-key={key}]")


def test_images_are_sorted_by_any_column_both_ways(page: Any) -> None:
    assert numbers(page) == list(range(25))
    head(page, "radius").locator("button").click()
    assert head(page, "radius").get_attribute("aria-sort") == "descending"
    assert head(page, "idx").get_attribute("aria-sort") is None
    assert numbers(page)[:3] == [59, 58, 57]
    head(page, "radius").locator("button").press("Enter")
    assert head(page, "radius").get_attribute("aria-sort") == "ascending"
    assert numbers(page)[:4] == [7, 27, 47, 0]
    head(page, "share").locator("button").click()
    assert head(page, "share").get_attribute("aria-sort") == "descending"


def test_filters_combine_and_say_how_many_are_left(page: Any) -> None:
    page.select_option("#outcome", "wrong")
    assert numbers(page) == [3, 23, 43]
    assert page.inner_text("#status") == "3 of 60 images; shown: 1 to 3"
    page.select_option("#class", "2")
    assert numbers(page) == [23]
    page.select_option("#class", "")
    page.fill("#least", "0.3")
    assert numbers(page) == [43]
    page.fill("#find", "no such class")
    assert page.inner_text("#status") == "0 of 60 images: none matches"
    page.fill("#find", "43")
    assert numbers(page) == [43]
    page.press("#find", "Enter")
    assert numbers(page) == [43]


def test_pages_turn_and_logs_change(page: Any) -> None:
    page.click("#next")
    page.click("#next")
    assert numbers(page) == list(range(50, 60))
    assert page.get_attribute("#next", "aria-disabled") == "true"
    page.locator("#next").press("Enter")
    assert numbers(page) == list(range(50, 60))
    # The focus stays where it is, for who turns pages with the keyboard.
    assert page.evaluate("document.activeElement.id") == "next"
    page.focus("#previous")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "previous"
    assert numbers(page) == list(range(25))
    page.select_option("#log", "1")
    assert page.inner_text("#status") == "30 of 30 images; shown: 1 to 25"
    assert "frozen-noise" in page.inner_text("#image-rows tr:first-child")


def test_a_row_tells_what_is_certified_in_a_sentence(page: Any) -> None:
    button = page.locator("#image-rows .detail button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    told = page.inner_text("#detail-1")
    assert (
        "the classifier as deployed answers dog for every image at an l2 distance below 0.020."
        in told
    )
    assert "Votes of 1000: cat: 1000." in told


def test_names_of_classes_are_shown_as_they_are(page: Any) -> None:
    page.fill("#find", "<img")
    assert page.locator("#image-rows th").count() == 21  # 20 images of the class, one wrong answer
    assert EVIL in page.inner_text("#image-rows tr:first-child")
    assert page.locator("#image-rows img").count() == 21  # the thumbnails alone


def test_values_are_read_off_the_curves_by_keyboard(page: Any) -> None:
    page.focus("#radius")
    page.keyboard.press("Home")
    assert page.inner_text("[data-value='0']") == "0.900"
    page.keyboard.press("End")
    assert page.inner_text("[data-value='0']") == "0.016"
    # Beyond its last radius a curve is 0, with an interval for that.
    assert page.inner_text("[data-value='1']") == "0.000"
    low, high = page.inner_text("[data-interval='1']").split(" to ")
    assert (low, high) == ("0.000", "0.116")  # 1 - 0.025 ** (1 / 30)
    page.uncheck("#show-0")
    assert page.locator(".series[data-series='0']").first.is_hidden()
    assert page.locator(".series[data-series='1']").first.is_visible()


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2 of two colours such as rgb(1, 2, 3)."""

    def luminance(colour: str) -> float:
        values = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for selector in (
        "body",
        ".caption",
        "a",
        ".g-deployed",
        ".g-frozen-noise",
        ".wrong",
        ".correct",
    ):
        colour = page.evaluate("(s) => getComputedStyle(document.querySelector(s)).color", selector)
        assert contrast(colour, ground) >= 4.5, selector


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_and_controls_have_contrast(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for i in range(7):
        colour = page.evaluate(
            """(i) => {
                const made = document.querySelector(".curve").cloneNode();
                made.setAttribute("class", `curve c${i}`);
                document.querySelector("#chart").append(made);
                return getComputedStyle(made).stroke;
            }""",
            i,
        )
        assert contrast(colour, ground) >= 3, i
    for selector in ("#log", "#least", "#next"):
        edge = page.evaluate(
            "(s) => getComputedStyle(document.querySelector(s)).borderTopColor", selector
        )
        assert contrast(edge, ground) >= 3, selector


def test_everything_that_can_be_used_has_a_name(page: Any) -> None:
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, img, [role=region]")]
            .filter((each) => !(each.ariaLabel || each.labels?.length || each.alt || each.innerText
                || each.getAttribute("aria-labelledby"))).map((each) => each.outerHTML)"""
    )
    assert unnamed == []


def test_it_prints(page: Any) -> None:
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.select_option("#log", "1")
    page.select_option("#outcome", "wrong")
    page.fill("#least", "0.02")
    page.emulate_media(media="print")
    assert page.locator("#controls").is_hidden()
    assert page.locator("#image-table").is_visible()
    # Controls and buttons are not printed: what they say is, as text.
    told = page.inner_text("#image-caption")
    assert told == "Images of Concert; outcome wrong; radius at least 0.02"
    assert page.locator("#image-caption").bounding_box()["height"] > 5
    assert head(page, "share").locator("span").is_visible()
    assert head(page, "idx").locator("button").is_hidden()


def test_wide_tables_are_printed_in_parts_that_fit(browser: Any, tmp_path: Path) -> None:
    make_log = log_maker(tmp_path)
    outcomes = [(i % 3, i % 3, 0.05 * i) for i in range(30)]
    names = ["Cohen", "Concert (generated)", "Concert (queried) (concert-codebook-0.25-cpu)"]
    logs = [
        make_log(outcomes, f"{i}", [Guarantee.FROZEN], method=names[i % 3], sigma=f"{i}.25-0.475")
        for i in range(6)
    ]
    write_report(logs, tmp_path / "report", radii=[round(0.1 * i, 1) for i in range(14)])
    # A4 without its margins of 12 mm, in pixels of 1/96 inch.
    width = int(186 / 25.4 * 96)
    context = browser.new_context(viewport={"width": width, "height": 900})
    opened = context.new_page()
    opened.goto((tmp_path / "report" / "report.html").as_uri())
    assert opened.locator("#accuracy table.print").first.is_hidden()
    opened.emulate_media(media="print")
    tables = opened.locator("table:visible")
    assert opened.locator("#accuracy table:visible").count() >= 2
    for i in range(tables.count()):
        assert tables.nth(i).bounding_box()["width"] <= width
    heads = opened.locator("#accuracy table.print thead th").all_inner_texts()
    for name in ("guarantee", "1.30", "AMCR", "certificate", "abstained (%)", "N", "n"):
        assert name in heads
    context.close()


def test_on_a_phone_nothing_of_the_legend_is_cut(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    for cell in page.locator(".legend tbody td").all():
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
    covered = page.evaluate(
        """() => [...document.querySelectorAll("#image-table thead [data-key]:not(.optional)")]
            .filter((cell) => {
                cell.scrollIntoView({ block: "center", inline: "end", behavior: "instant" });
                const box = cell.querySelector("button").getBoundingClientRect();
                const top = document.elementFromPoint(box.right - 2, (box.top + box.bottom) / 2);
                return !cell.contains(top);
            }).map((cell) => cell.dataset.key)"""
    )
    assert covered == []
    assert page.locator("#image-rows .small .chip").first.is_visible()
