"""What is drawn, and that equal curves give equal bytes."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from fractions import Fraction
from math import inf

import matplotlib
import numpy as np
import pytest

from bench.report import figures, frames
from bench.store import Record

MakeRecord = Callable[..., Record]
OUTCOMES = [0, 0.1, 0.2, inf]


def crowd(record: MakeRecord) -> list[Record]:
    """Five defended models under three attacks each."""
    return [
        record(OUTCOMES, defense=f"d{d}", attack=attack)
        for d in range(5)
        for attack in ("fgsm", "pgd", "square")
    ]


def test_bytes_are_the_same_twice_and_whatever_the_users_settings(record: MakeRecord) -> None:
    curves = frames.curves([record(OUTCOMES), record(OUTCOMES, attack="fgsm")])
    first = figures.svg(curves)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "svg.hashsalt": "x"}):
        assert figures.svg(curves) == first
    assert "<dc:date>" not in first
    ET.fromstring(first)  # noqa: S314  our own text; raises where it is not well-formed


def test_settings_are_left_as_found(record: MakeRecord) -> None:
    before = dict(matplotlib.rcParams)
    figures.svg(frames.curves([record(OUTCOMES)]))
    assert dict(matplotlib.rcParams) == before


def test_lines_show_the_accuracies_in_percent(record: MakeRecord) -> None:
    (axes,) = figures.figure(frames.curves([record(OUTCOMES)])).axes
    (line,) = axes.lines
    assert np.asarray(line.get_xdata()).tolist() == [0.0, 0.1, 0.2, 0.3]
    assert np.asarray(line.get_ydata()).tolist() == [75.0, 50.0, 25.0, 25.0]
    assert axes.get_xlabel() == "eps (linf, inputs in [0, 1])"
    assert axes.get_ylabel() == "accuracy on n = 4 test images (%)"
    assert axes.get_ylim() == (-2, 102)


def test_lines_start_at_the_clean_accuracy(record: MakeRecord) -> None:
    grid = (Fraction(1, 10), Fraction(2, 10))
    (axes,) = figures.figure(frames.curves([record(OUTCOMES, eps=grid)])).axes
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [0.0, 0.1, 0.2]
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [75.0, 50.0, 25.0]


def test_a_single_eps_gives_a_row_per_series(record: MakeRecord) -> None:
    grid = (Fraction(0), Fraction(8, 255))
    cells = [
        record([0, 8 / 255, inf, inf], eps=grid),
        record(None, eps=grid, attack="cw"),
    ]
    (axes,) = figures.figure(frames.curves(cells)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pgd", "none: cw"]
    assert "eps = 8/255 (linf" in axes.get_xlabel()
    points = [np.asarray(line.get_xdata()).tolist() for line in axes.lines]
    assert points[0] == [50.0, 75.0]  # from the accuracy at eps to the clean one
    assert "failed" in [text.get_text() for text in axes.texts]


def test_a_worst_case_over_one_attack_is_not_drawn_twice(record: MakeRecord) -> None:
    one = figures.series(frames.curves([record(OUTCOMES)]))
    assert [(s.label, s.bold) for s in one] == [("pgd", True)]
    cells = [record(OUTCOMES), record(OUTCOMES, attack="fgsm")]
    two = figures.series(frames.curves(cells))
    assert [(s.label, s.bold) for s in two] == [
        ("pgd", False),
        ("fgsm", False),
        ("worst-case", True),
    ]


def test_colours_tell_defended_models_apart(record: MakeRecord) -> None:
    shown = figures.series(frames.curves(crowd(record)))
    colours = {s.pipeline: s.colour for s in shown}
    assert len(set(colours.values())) == len(colours) == 5
    assert set(colours.values()) < set(figures.PALETTE)
    assert all(s.colour == colours[s.pipeline] for s in shown)
    looks = {(s.colour, str(s.line), s.marker) for s in shown}
    assert len(looks) == len(shown) == 20


def test_no_two_bold_series_look_alike(record: MakeRecord) -> None:
    cells = [record(OUTCOMES, defense=f"d{i}") for i in range(20)]
    shown = figures.series(frames.curves(cells))
    assert len({(s.colour, str(s.line)) for s in shown}) == 20


def test_long_labels_go_on_after_a_comma(record: MakeRecord) -> None:
    defense = "advtrain:" + ",".join(f"key{i}=value" for i in range(12))
    cells = [record(OUTCOMES, defense=defense), record(OUTCOMES)]
    (legend,) = figures.figure(frames.curves(cells)).legends
    first, second = legend.get_texts()[0].get_text().split("\n")
    assert first.endswith(",")
    assert len(first) <= 84
    assert first + second.removeprefix("    ") == f"{defense}: pgd"


def test_single_attacks_are_thin_where_it_is_crowded(record: MakeRecord) -> None:
    drawing = figures.figure(frames.curves(crowd(record)))
    (axes,) = drawing.axes
    wide = [line for line in axes.lines if line.get_linewidth() > 2]
    assert (len(wide), len(axes.lines)) == (5, 20)
    assert len(axes.collections) == 5  # bands of the worst cases only
    labels = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert labels == [*(f"d{i}: worst-case" for i in range(5)), "fgsm", "pgd", "square"]


def test_names_say_what_differs(record: MakeRecord) -> None:
    cells = [
        record(OUTCOMES, model=model, seed=seed, attack=attack, mode=mode)
        for model, seed in [("cnn", 0), ("mlp", 1)]
        for attack, mode in [("pgd", "bpda"), ("pgd", "eot"), ("fgsm", "bpda")]
    ]
    shown = figures.series(frames.curves(cells))
    assert [s.label for s in shown[:4]] == [
        "cnn / undefended, seed 0: pgd (bpda)",
        "cnn / undefended, seed 0: pgd (eot)",
        "cnn / undefended, seed 0: fgsm",
        "cnn / undefended, seed 0: worst-case",
    ]


def test_failures_are_named_in_the_legend(record: MakeRecord) -> None:
    cells = [record(OUTCOMES), record(None, defense="broken")]
    (legend,) = figures.figure(frames.curves(cells)).legends
    assert [text.get_text() for text in legend.get_texts()] == ["pgd", "failed: pgd on broken"]


def test_one_figure_per_dataset_and_norm_that_has_numbers(record: MakeRecord) -> None:
    cells = [
        record(OUTCOMES),
        record(OUTCOMES, defense="advtrain"),
        record(OUTCOMES, norm="l2"),
        record(None, dataset="mnist"),
    ]
    made = figures.figures(frames.curves(cells))
    assert list(made) == ["accuracy_vs_eps_digits_linf.svg", "accuracy_vs_eps_digits_l2.svg"]


def test_files_have_names_that_any_system_takes() -> None:
    assert figures.name("cifar10", "linf") == "accuracy_vs_eps_cifar10_linf.svg"
    names = {figures.name(dataset, "l2") for dataset in ("a/b.py:c", "a-b.py:c", "a/b.py/c")}
    assert len(names) == 3
    assert not set("".join(names)) & set('/\\:*?"<>| ')


@pytest.mark.parametrize(
    ("ks", "labels"),
    [
        ((1, 2, 4, 8, 16), ["0", "2/255", "4/255", "8/255", "16/255"]),  # 1/255 has no room
        ((4, 8), ["0", "4/255", "8/255"]),
    ],
)
def test_pixel_steps_are_labelled_as_such(
    record: MakeRecord, ks: tuple[int, ...], labels: list[str]
) -> None:
    cell = record([inf], eps=tuple(Fraction(k, 255) for k in ks))
    (axes,) = figures.figure(frames.curves([cell])).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == labels[::-1]


def test_changed_components_are_not_input_units(record: MakeRecord) -> None:
    cell = record([1, 5, inf], norm="l0", eps=(Fraction(1), Fraction(5)))
    (axes,) = figures.figure(frames.curves([cell])).axes
    assert axes.get_xlabel() == "eps (l0, changed components)"


def test_of_too_many_curves_the_highest_worst_cases_are_drawn(record: MakeRecord) -> None:
    pipelines, attacks = 50, 8
    cells = [
        record([0.1] * d + [inf] * (pipelines - d), defense=f"d{d}", attack=f"a{a}")
        for d in range(pipelines)
        for a in range(attacks)
    ]
    assert len(cells) == figures.MOST
    drawn = figures.series(frames.curves(cells))
    assert all(each.curve.is_worst for each in drawn)
    assert [each.curve.of.defense for each in drawn] == [f"d{d}" for d in range(40)]
    drawing = figures.figure(frames.curves(cells))
    assert "(the highest of 450 curves)" in drawing.axes[0].get_title()
