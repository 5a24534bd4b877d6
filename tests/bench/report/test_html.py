"""The page: self-contained, escaped, complete."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from math import inf

import pytest

from bench.report import figures, frames, html, learning, tradeoff
from bench.store import Record

MakeRecord = Callable[..., Record]
FACTS = {
    "versions": {"adversarial-bench": "1.2.3", "numpy": "2.0"},
    "processor": "some <processor>",
    "gpu": "",
    "threads": 2,
    "command": "bench run --attack 'a&b'",
    "start": "2026-01-02T03:04:05Z",
    "weights": "abc123",
    "objective": "cross-entropy",
    "training_seconds": 12.345,
    "training_log": [{"epoch": 1, "loss": 0.123456}, {"epoch": 2, "loss": 0.1, "clean": 0.9}],
}


def page(cells: list[Record]) -> str:
    drawn = figures.figures(frames.curves(cells))
    return html.page(cells, drawn | tradeoff.figures(cells) | learning.drawn(cells))


class Reader(HTMLParser):
    """Collects tags, ids and text, and checks that tags close in order."""

    void = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.links.append(value or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_self_contained(record: MakeRecord) -> None:
    cells = [
        record([0, 0.1, inf], provenance=FACTS),
        record([0, 0.1, inf], norm="l2", provenance=FACTS),
    ]
    text = page(cells)
    reader = read(text)
    assert text.startswith("<!DOCTYPE html>")
    assert text == page(cells)
    assert not reader.tags & {"script", "link", "img", "iframe"}
    assert reader.links
    assert all(link.startswith("#") for link in reader.links)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(reader.ids)
    assert "prefers-color-scheme: dark" in text


def test_the_page_holds_every_figure_once(record: MakeRecord) -> None:
    names = [("linf", d) for d in ("none", "fast", "madry")] + [("l2", "none"), ("l2", "fast")]
    cells = [record([0, 0.1, inf], norm=m, defense=d, provenance=FACTS) for m, d in names]
    text = page(cells)
    assert re.findall(r'<figure role="img" aria-label="([^"]*)">', text) == [
        "Accuracy vs eps: digits, linf",
        "Robust against clean accuracy: digits, linf",
        "While training: digits, linf",
        "Accuracy vs eps: digits, l2",
        "While training: digits, l2",
    ]
    assert text.count("<svg") == 5
    reader = read(text)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(reader.ids)


def test_the_page_shows_everything(record: MakeRecord) -> None:
    cells = [
        record([0, 0.1, inf], provenance=FACTS),
        record(None, attack="cw", failure="<b>no</b> gradient"),
    ]
    text = read(page(cells)).text
    for part in (
        "2 cells, 1 failed",
        "digits, linf, eps = 0.2",
        "1 of 2 attacks failed",
        "cw on none failed: <b>no</b> gradient",
        "some <processor>",
        "adversarial-bench 1.2.3, numpy 2.0",
        "Made by bench run --attack 'a&b' with adversarial-bench 1.2.3.",
        "abc123",
        "Training log of cnn / none on digits",
        "0.1235",
    ):
        assert part in text


@pytest.mark.parametrize("failed", [True, False])
def test_little_is_enough(record: MakeRecord, failed: bool) -> None:
    reader = read(page([record(None)] if failed else []))
    assert "svg" not in reader.tags
    assert ("1 cell, 1 failed" in reader.text) == failed
    assert ("No results yet." in reader.text) != failed
