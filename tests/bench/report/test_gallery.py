"""Images before and after a defense: read as they were written, drawn in order."""

import base64
import re
import zlib
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.report import gallery
from bench.report.write import write
from bench.store import Record

MakeRecord = Callable[..., Record]
SHAPE = (1, 4, 4)


def images(seed: int, shape: tuple[int, ...] = SHAPE, k: int = 3) -> np.ndarray:
    flat = (np.arange(k * int(np.prod(shape))) * (2 * seed + 1)) % 256
    return flat.astype(np.uint8).reshape(k, *shape)


def written(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes())).decode("ascii")


def fact(seed: int, shape: tuple[int, ...] = SHAPE, **changes: Any) -> dict[str, Any]:
    values = {
        "clean": images(0, shape),
        "clean purified": images(1, shape),
        "adversarial": images(seed, shape),
        "purified": images(seed + 1, shape),
    }
    return {
        "shape": list(shape),
        "labels": [3, 1, 4],
        "eps": 0.2,
        "images": {name: written(each) for name, each in values.items()},
        "said": {"clean purified": [3, 1, 5], "purified": [7, 1, -1]},
    } | changes


@pytest.fixture
def cells(record: MakeRecord) -> list[Record]:
    made = {"defense": "purify"}
    return [
        record([0, inf]),
        record([0, inf], **made, mode="oblivious", provenance={"gallery": fact(2)}),
        record([0, inf], **made, mode="bpda+eot", provenance={"gallery": fact(4)}),
        record([0, inf], **made, attack="square", mode="black-box"),
        record(None, **made, attack="cw", provenance={"gallery": fact(6)}),
    ]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 5)])
def test_images_are_read_as_they_were_written(shape: tuple[int, ...]) -> None:
    values = images(5, shape, k=8)
    read = gallery.decoded(written(values), shape)
    assert read.dtype == np.uint8
    assert np.array_equal(read, values)


def test_a_gallery_is_the_record_s(cells: list[Record]) -> None:
    one, other = gallery.galleries(cells)
    assert (one.of, other.of) == (cells[1], cells[2])
    assert np.array_equal(other.adversarial, images(4))
    assert np.array_equal(other.purified, images(5))
    assert np.array_equal(other.clean_purified, images(1))
    assert (other.eps, other.labels, other.said) == (0.2, (3, 1, 4), (7, 1, -1))


def test_rows_stand_in_order_and_shared_images_once(cells: list[Record]) -> None:
    rows = gallery._rows(gallery.galleries(cells))
    assert [row.title for row in rows] == [
        *("clean", "purified"),
        *("pgd, oblivious", "purified"),
        *("pgd, bpda+eot", "purified"),
    ]
    shown = [images(0), images(1), images(2), images(3), images(4), images(5)]
    assert all(np.array_equal(row.images, each) for row, each in zip(rows, shown, strict=True))
    black, red, grey = gallery._BLACK, gallery._RED, gallery._GREY
    assert rows[0].labels == (("3", black), ("1", black), ("4", black))
    assert rows[1].labels == (("3", black), ("1", black), ("5", red))
    assert rows[2].labels == ()
    assert rows[3].labels == (("7", red), ("1", black), ("refused", grey))


def test_a_clean_image_that_is_refused_is_an_error(record: MakeRecord) -> None:
    said = {"clean purified": [-1, 1, 4], "purified": [3, 1, 4]}
    cell = record([inf], defense="purify", provenance={"gallery": fact(2, said=said)})
    rows = gallery._rows(gallery.galleries([cell]))
    assert rows[1].labels[0] == ("refused", gallery._RED)


def test_other_clean_images_start_anew(record: MakeRecord) -> None:
    other = fact(2)
    other["images"]["clean"] = written(images(9))
    cells = [
        record([inf], defense="purify", mode=mode, provenance={"gallery": each})
        for mode, each in (("oblivious", fact(2)), ("bpda", other))
    ]
    titles = [row.title for row in gallery._rows(gallery.galleries(cells))]
    assert titles == [
        *("clean", "purified", "pgd, oblivious", "purified"),
        *("clean", "purified", "pgd, bpda", "purified"),
    ]


def test_titles_say_what_tells_cells_apart(record: MakeRecord) -> None:
    cells = [
        record([inf], defense="purify", seed=seed, provenance={"gallery": fact(2, eps=eps)})
        for seed, eps in ((0, 0.1), (1, 0.2))
    ]
    titles = [row.title for row in gallery._rows(gallery.galleries(cells))]
    assert titles[2::2] == ["pgd, white-box, eps 0.1, seed 0", "pgd, white-box, eps 0.2, seed 1"]


def test_small_images_are_blown_up_whole(record: MakeRecord) -> None:
    (image,) = images(3, (1, 4, 4), k=1)
    shown = gallery._pixels(image)
    assert shown.shape == (64, 64, 3)
    assert np.array_equal(shown[::16, ::16], np.repeat(image[0][:, :, None], 3, axis=2))
    (colour,) = images(3, (3, 64, 32), k=1)
    assert np.array_equal(gallery._pixels(colour), np.moveaxis(colour, 0, 2))


def test_a_figure_per_defended_model_and_norm(cells: list[Record], record: MakeRecord) -> None:
    other = record([inf], defense="purify", norm="l2", provenance={"gallery": fact(2)})
    drawn = gallery.drawn([*cells, other])
    assert list(drawn) == [
        "reconstructions_digits_cnn_purify_linf.svg",
        "reconstructions_digits_cnn_purify_l2.svg",
    ]
    assert drawn == gallery.drawn([*cells, other])
    first = drawn["reconstructions_digits_cnn_purify_linf.svg"]
    assert len(re.findall("<image", first)) == 6 * 3


def test_long_specs_make_short_names_that_differ(record: MakeRecord) -> None:
    specs = [f"purify:{'steps=200,' * 30}seed={seed}" for seed in (0, 1)]
    names = {gallery.figure_name(record([0], defense=spec)) for spec in specs}
    assert len(names) == 2
    assert all(len(name) < 120 for name in names)


def test_it_is_written_shown_and_removed(cells: list[Record], tmp_path: Path) -> None:
    name = "figures/reconstructions_digits_cnn_purify_linf.svg"
    assert name in {path.relative_to(tmp_path).as_posix() for path in write(cells, tmp_path)}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'aria-label="Before and after a defense: digits, linf"' in page
    write(cells[:1], tmp_path)
    assert not (tmp_path / name).exists()
