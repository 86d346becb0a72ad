"""The page: whole, escaped, and needing nothing but itself."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from concert.certificates import Guarantee
from concert.data import ImageSet
from concert.evaluation.page.images import THUMBNAIL, class_names, thumbnail
from concert.evaluation.page.page import PageExtras, report_page
from concert.evaluation.page.tables import PageTable
from concert.evaluation.page.words import surely
from concert.records.reading import LoadedLog, read_log

DATA = Path(__file__).parents[2] / "data_files"
OUTCOMES = [(0, 0, 0.8), (1, 1, 0.5), (2, 3, 5.0), (3, -1, 0.0)]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Elements(HTMLParser):
    """The tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif not self._inside:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def logs(make_log: Callable[..., LoadedLog]) -> list[LoadedLog]:
    info = {"data": "cifar10", "classes": ["cat", "dog", "ship", EVIL]}
    identity = {"alpha": 0.001, "weights": "ab" * 32, "n": 1000}
    return [
        make_log(OUTCOMES, "a", identity=identity, method="Cohen", sigma="0.25", **info),
        make_log(OUTCOMES, "b", [Guarantee.FROZEN, Guarantee.NONE], method=EVIL, **info),
        read_log(DATA / "cohen_seconds.tsv"),
    ]


def test_every_table_and_every_guarantee_is_there(logs: list[LoadedLog]) -> None:
    page = Elements(report_page(logs))
    for anchor in ("curves", "accuracy", "regions", "sigma", "runtime", "images", "reproduce"):
        assert any(attributes.get("id") == anchor for _, attributes in page.tags), anchor
    for guarantee in Guarantee:
        assert guarantee.sentence in page.text
    for part in ("AMCR", "abstained (%)", "seconds per image", "median", "ab" * 32):
        assert part in page.text
    for part in (
        "50.0 % of 4 images are classified correctly (exact 95 % interval 6.7 to 93.3 %), 25.0 % "
        "are abstained from.",
        "The average certified radius is 0.325 (too few images for an interval).",
        "A certificate holds for each image separately, with probability at least 0.999 (alpha "
        "0.001): of the certificates of 4 images, on average at most 0.004 are expected to be "
        "wrong.",
        "dash-dotted ones come from logs that do not say",
        "pointwise",
    ):
        assert part in page.text


def test_what_comes_from_a_log_is_text_and_nothing_else(logs: list[LoadedLog]) -> None:
    extras = PageExtras(command=f"concert report {EVIL}")
    source = report_page(logs, extras=extras)
    page = Elements(source)
    assert EVIL in page.text
    assert len(page.of("script")) == 3
    assert page.of("img") == []
    assert "<img src=x" not in source
    rows = json.loads(page.scripts[1])
    assert rows["classes"][3] == EVIL
    assert rows["logs"][1]["name"] == EVIL


def test_the_page_forbids_itself_the_network(logs: list[LoadedLog]) -> None:
    source = report_page(logs)
    page = Elements(source)
    (policy,) = [each["content"] for each in page.of("meta") if "http-equiv" in each]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    addresses = [v for _, each in page.tags for k, v in each.items() if k in ("src", "href")]
    assert all(
        (address is not None and address[:1] == "#") or address == "data:," for address in addresses
    )
    assert not re.search(r"url\(|@import|https?://", source)


def test_names_that_would_be_the_same_are_told_apart(make_log: Callable[..., LoadedLog]) -> None:
    logs = [make_log(OUTCOMES, "run", method="Cohen", sigma="0.25")]
    path = logs[0].path.with_name("static.tsv")
    path.write_bytes(logs[0].path.read_bytes())
    other = LoadedLog(logs[0].frame.assign(certificate="static"), logs[0].run, path)
    names = [
        log["name"] for log in json.loads(Elements(report_page([*logs, other])).scripts[1])["logs"]
    ]
    assert len(set(names)) == 2


def test_rows_hold_radii_rounded_down_and_thumbnails(make_log: Callable[..., LoadedLog]) -> None:
    log = make_log([(0, 0, 0.99999), (1, 1, 0.5)], data="mine", classes=["a", "b"])
    pixels = torch.arange(2 * 12, dtype=torch.uint8).reshape(2, 1, 3, 4) * 10
    images = ImageSet("mine", "test", pixels, torch.tensor([0, 1]), ["a", "b"])
    rows = json.loads(Elements(report_page([log], extras=PageExtras(images))).scripts[1])
    assert rows["logs"][0]["radius"] == ["0.9999", "0.5000"]
    content = base64.b64decode(rows["thumbnails"]["1"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(content)) as picture:
        assert list(picture.tobytes()) == pixels[1].flatten().tolist()


def test_thumbnails_of_large_images_are_small() -> None:
    with Image.open(io.BytesIO(thumbnail(torch.rand(3, 200, 100)))) as picture:
        assert picture.size == (THUMBNAIL // 2, THUMBNAIL)


@pytest.mark.parametrize(
    ("alpha", "images", "said"),
    [
        (0.001, 500, "at least 0.999 (alpha 0.001): of the certificates of 500 images, on average "
         "at most 0.5 are"),
        (0.05, 20, "at least 0.95 (alpha 0.05): of the certificates of 20 images, on average at "
         "most 1 is"),
        (1e-05, 7, "at least 0.99999 (alpha 1e-05): of the certificates of 7 images, on average "
         "at most 0.001 are"),
        (None, 5, "the log does not say alpha"),
        ("often", 5, "the log does not say alpha"),
    ],
)  # fmt: skip
def test_how_many_certificates_may_be_wrong(
    make_log: Callable[..., LoadedLog], alpha: float | str | None, images: int, said: str
) -> None:
    log = make_log([(0, 0, 0.5)] * images, identity={"alpha": alpha})
    assert said in surely(log)


def test_nothing_is_promised_for_logs_that_guarantee_nothing(
    make_log: Callable[..., LoadedLog],
) -> None:
    assert surely(make_log(OUTCOMES, "a", [Guarantee.NONE], {"alpha": 0.001})) == ""
    assert surely(read_log(DATA / "cohen_seconds.tsv")) == ""
    half = make_log(OUTCOMES, "b", [Guarantee.FROZEN, Guarantee.NONE], {"alpha": 0.001})
    assert "of 2 images" in surely(half)


def test_lower_bounds_are_said_to_be(make_log: Callable[..., LoadedLog]) -> None:
    grid = make_log(OUTCOMES, identity={"stopping": "grid:0,0.5"}, method="Cohen")
    text = Elements(report_page([grid])).text
    assert "for an interval) (a lower bound: sampling stopped early)." in text
    for what in ("Curves, but for the radii of a grid, and AMCR", "AMCR, axis and log-volume"):
        assert f"{what}: lower bounds, because sampling stopped early." in text
    assert "lower bound" not in Elements(report_page([make_log(OUTCOMES, "full")])).text


def test_a_page_of_attacked_images_has_their_table(make_log: Callable[..., LoadedLog]) -> None:
    attack = {"method": "cadv", "against": "base", "l2": [1.0, 2.0, 2.5, 5.0]}
    logs = [make_log(OUTCOMES, name, data="cifar10, cadv", attack=attack) for name in "ab"]
    page = Elements(report_page(logs, taus=[2.25]))
    assert any(attributes.get("id") == "attacks" for _, attributes in page.tags)
    for part in ("tau 2.25", "1.00 [0.15, 1.00] (2)", "share of attacked images that are"):
        assert part in page.text
    assert "it says that the answer there is stable" in page.text
    clean = make_log(OUTCOMES, "c", data="cifar10, cadv")
    mixed = Elements(report_page([*logs, clean]))
    assert not any(attributes.get("id") == "attacks" for _, attributes in mixed.tags)
    assert "The images of a; b are attacked ones." in mixed.text


def test_rows_of_two_certificates_of_one_run_are_told_apart(
    make_log: Callable[..., LoadedLog],
) -> None:
    log = make_log(OUTCOMES, method="Concert", sigma="0.25")
    other = LoadedLog(
        log.frame.assign(certificate="static"), log.run, log.path.with_name("static.tsv")
    )
    other.path.write_bytes(log.path.read_bytes())
    source = report_page([log, other])
    for anchor in ("sigma", "runtime"):
        section = source[source.index(f'<section id="{anchor}"') :]
        rows = re.findall(r"<tr><td.*?</tr>", section[: section.index("</section>")])
        assert len(set(rows)) == 2
        assert ["isotropic" in row for row in rows] == [True, False]


def test_wide_tables_have_parts_for_paper() -> None:
    radii = {f"{i / 4:.2f}": ["0.950"] * 2 for i in range(14)}
    keys = {"sigma": ["0.25", "0.5"], "method": ["Cohen"] * 2, "guarantee": ["deployed"] * 2}
    columns = {**keys, **radii, "AMCR": ["0.731 [0.721, 0.743]"] * 2, "N": ["500"] * 2}
    parts = PageTable("a", "A", "", columns).parts
    assert len(parts) == 2
    assert all(names[:3] == list(keys) for names, _ in parts)
    assert [name for names, _ in parts for name in names[3:]] == list(columns)[3:]
    narrow = PageTable("a", "A", "", keys | {"N": ["500"] * 2})
    assert narrow.parts == [(list(narrow.columns), narrow.rows)]


def test_the_legend_and_the_slider_need_no_script(make_log: Callable[..., LoadedLog]) -> None:
    source = report_page([make_log([(0, 0, 1.0), (1, 1, 0.5), (2, 3, 5.0), (3, -1, 0.0)])])
    assert '<td class="number" data-value="0">0.500</td>' in source
    (slider,) = [each for each in Elements(source).of("input") if each.get("type") == "range"]
    assert (slider["step"], slider["value"], slider["max"]) == ("0.005", "0.5", "1.0")


@pytest.mark.parametrize("classes", ["abc", {"a": 1}, 3, [["a"], ["b"]], [None], True])
def test_what_is_not_a_list_names_no_classes(
    make_log: Callable[..., LoadedLog], classes: object
) -> None:
    assert class_names([make_log(OUTCOMES, classes=classes)]) == []
    named = make_log(OUTCOMES, "named", classes=["a", "b"])
    assert class_names([make_log(OUTCOMES, "other", classes=classes), named]) == ["a", "b"]
