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
from concert.evaluation.page import PageExtras, report_page
from concert.evaluation.page_images import THUMBNAIL, thumbnail
from concert.log_reading import LoadedLog, read_log

DATA = Path(__file__).parents[1] / "data_files"
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
    assert "50.0 % of 4 images are classified correctly, 25.0 % are abstained from" in page.text


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
