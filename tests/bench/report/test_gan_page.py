"""A generator's page and table, drawn from plain numbers."""

import io
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bench.report.gan import findings, graphs, page, table
from bench.report.gan.portrait import (
    OWN,
    TEST,
    Arithmetic,
    Finding,
    History,
    Look,
    Measure,
    Neighbours,
    Portrait,
    Source,
    Stacked,
    Truncated,
    Walk,
)
from models.coverage import coverage


def images(*sizes, channels=3):
    return np.zeros((*sizes, channels, 4, 4), np.float32)


def look(*counts, update=None):
    return Look(update, counts, coverage(counts, (2, 1, 1)))


BARE = Portrait(
    dataset="photos",
    generator="dcgan",
    source="given",
    model="cnn",
    weights="ab",
    log=(),
    history=None,
    final=look(750, 250, 0),
    real=(2, 1, 1),
    findings=(),
    clean=0.5,
    kept=0.25,
    sources=(
        Source(OWN, (0.1, 0.3)),
        Source(TEST, (0.2, 0.4), 0.75, {0.01: 0.5, 0.05: 0.5}, ((0, 0), (0, 0.5), (1, 1))),
    ),
    sampled="samples",
    samples=(("", images(4)), ("", images(4))),
    images=images(2),
    inverted=images(2),
    inversion="L = 1, R = 1",
    walks=(),
    arithmetic=None,
    neighbours=None,
    truncated=(),
    stacked=None,
    measures=(Measure("FID", 1.5, "10 samples, layer fc of cnn"), Measure("copies", None, "none")),
    missing=("training: --retrain trains",),
    command="bench gan",
)
ENTRIES = tuple({"update": k, **dict.fromkeys(list(table.LOG)[1:], 0.5 * k)} for k in (3, 6))
FINDING = Finding("collapse", "updates 3 to 6: class 1 alone", ((3, 6),))
WHOLE = replace(
    BARE,
    source="trained",
    log=ENTRIES,
    history=History(
        (3, 6), images(2, 5), (look(1, 3, 0, update=3), look(0, 4, 0, update=6)), (FINDING,)
    ),
    findings=(FINDING,),
    walks=(Walk("linear", images(2, 5), "even"), Walk("spherical", images(2, 5), "uneven")),
    arithmetic=Arithmetic(
        ("bold a", "- light a", "+ light b", "= bold b"),
        ("0 to 1", "1 to 2", "2 to 0"),
        images(3, 4),
        "right",
    ),
    neighbours=Neighbours(images(7), images(7), "far"),
    truncated=(Truncated("psi", 1.0, 0.5, 0.7), Truncated("tau", 0.5, 0.6, 0.4)),
    stacked=Stacked(np.array([3, 0, 1]), 0.5),
    missing=(),
)
PANELS = [
    "Samples",
    "Classes of samples",
    "Samples over time",
    "Scores and losses",
    "Gradients of the generator",
    "Class coverage over time",
    "Stacked digits: triples",
    "Interpolation",
    "Latent arithmetic",
    "Truncation",
    "Memorisation: nearest training images",
    "Inversion of test images",
    "Membership: ROC curves",
]


def test_a_whole_portrait_has_every_panel_once():
    assert [panel.title for panel in page.panels(WHOLE)] == PANELS


def test_what_was_not_measured_has_no_panel():
    assert [panel.title for panel in page.panels(BARE)] == [*PANELS[:2], *PANELS[-2:]]
    without = replace(WHOLE, log=tuple({**e, "slope_saturating": None} for e in ENTRIES))
    kept = [{**entry, "slope_nonsaturating": None} for entry in without.log]
    without = replace(without, log=tuple(kept))
    assert "Gradients of the generator" not in [panel.title for panel in page.panels(without)]


@pytest.mark.parametrize("portrait", [WHOLE, BARE], ids=["whole", "bare"])
def test_the_page_is_an_svg_of_the_same_bytes_each_time(portrait):
    text = page.svg(portrait)
    ET.fromstring(text)  # noqa: S314  our own text
    assert page.svg(portrait) == text


def covered(counts, prior):
    """The panel of coverage over two looks: the upper of its axes."""
    seen = tuple(Look(at, counts, coverage(counts, prior)) for at in (1, 2))
    panel = Figure().subfigures()
    graphs.coverage(panel, History((1, 2), images(2, 5), seen, ()))
    return panel.axes[0]


def test_many_classes_are_seen_beside_what_chance_gives():
    axes = covered((50, *[0] * 99), (1,) * 100)
    # 100 (1 - 0.99^50)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [pytest.approx(39.499, abs=1e-3)]
    assert all(tick == int(tick) for tick in axes.get_yticks())
    axes = covered((50, 50), (1, 1))
    assert len(axes.lines) == 1
    assert all(tick == int(tick) for tick in axes.get_yticks())


def test_images_of_any_channels_and_sizes_are_drawn():
    two = images(8, channels=2)
    lone = replace(BARE, samples=(("", two), ("", two[:3])), images=two[:1], inverted=two[:1])
    ET.fromstring(page.svg(lone))  # noqa: S314  our own text


def test_the_page_is_at_most_a_sheet_of_a3():
    # Triples stand in place of classes, of which there are three here.
    box = ET.fromstring(page.svg(replace(WHOLE, stacked=None))).attrib["viewBox"].split()  # noqa: S314  our own text
    assert float(box[2]) / 72 <= 11.7
    assert float(box[3]) / 72 <= 16.54


def test_the_file_is_named_after_the_dataset():
    assert page.name("photos") == "gan_photos.svg"
    assert page.name("a/b").startswith("gan_a-b-")
    assert page.former("photos")[1] == "gan_curves_photos.svg"


def test_the_table_of_known_numbers():
    rows = pd.read_csv(io.StringIO(table.measures(BARE).csv()))
    assert list(rows.columns) == ["measure", "value", "of"]
    found = {(row.measure, row.of): row.value for row in rows.itertuples()}
    seen = "1,000 samples, seen by cnn"
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["classes found", f"{seen}; of 3"] == 2
    assert found["class entropy (nats)", f"{seen}; 1.099 at most"] == pytest.approx(entropy)
    assert found["KL to the class prior (nats)", seen] == pytest.approx(
        math.log(2) - entropy + 0.25 * math.log(2)
    )
    assert found["classes dropped", f"{seen}: 2"] == 1
    assert found["dominant share (%)", f"{seen}; class 0"] == 75
    assert found["FID", "10 samples, layer fc of cnn"] == 1.5
    assert math.isnan(found["copies", "none"])
    how, beside = "L = 1, R = 1", "own samples beside 2 test images"
    assert found[f"inversion error, mean, {OWN}", f"2 own samples; {how}"] == pytest.approx(0.2)
    assert found[f"inversion error, median, {TEST}", f"2 test images; {how}"] == pytest.approx(0.3)
    assert found[f"membership AUC, {TEST}", beside] == 0.75
    assert found[f"membership TPR (%) at 1 % FPR, {TEST}", beside] == 50
    assert found["accuracy (%)", "2 test images, seen by cnn"] == 50
    assert found["accuracy after inversion (%)", "2 test images, seen by cnn"] == 25
    assert not any(name == "updates" for name, _ in found), "nobody knows them"
    assert not any(name == f"membership AUC, {OWN}" for name, _ in found)
    assert rows["measure"].is_unique


def one(portrait, name):
    (found,) = [each for each in table.measured(portrait) if each.name == name]
    return found


def test_classes_that_may_miss_by_chance_are_not_called_dropped():
    few = replace(BARE, final=Look(None, (3, 0, 0), coverage((3, 0, 0), (2, 1, 1))))
    dropped = one(few, "classes dropped")
    assert dropped.value is None
    assert dropped.of.endswith("too few samples to tell")
    # 3 - 1 / 8 - 2 (27 / 64)
    assert few.final.seen.expected == pytest.approx(2.03125)
    assert one(few, "classes found").of.endswith("of 3, 2 expected of the class prior")
    sound = one(replace(BARE, final=look(500, 250, 250)), "classes dropped")
    assert (sound.value, sound.of) == (0, "1,000 samples, seen by cnn")


def test_a_truncation_stands_wherever_samples_are_named():
    near = replace(WHOLE, sampled="samples at psi = 0.5")
    found = {measure.name: measure.of for measure in table.measured(near)}
    assert found[f"inversion error, mean, {OWN}"].startswith("2 own samples at psi = 0.5")
    assert found[f"membership AUC, {TEST}"] == "own samples at psi = 0.5 beside 2 test images"
    assert "own samples at psi = 0.5: error 0.2" in table.told(near)
    assert page.heading(near) == "photos: dcgan, trained, samples at psi = 0.5"
    assert page.heading(WHOLE) == "photos: dcgan, trained"


def test_the_text_of_known_numbers():
    text = table.markdown(WHOLE, "figures")
    assert text.count("\n| - |") == 1, "one table"
    assert "| FID | 1.5 | 10 samples, layer fc of cnn |" in text
    assert "| updates | 6 | training |" in text
    assert "| training time (s) | 4.5 | training |" in text
    assert "\n- collapse: updates 3 to 6: class 1 alone\n" in text
    assert "![photos](figures/gan_photos.svg)" in text
    assert "dcgan: trained, 6 updates in 4.5 s; weights ab" in text
    assert "Samples per class: 0: 750, 1: 250, 2: 0" in text
    assert "Made by `bench gan` with adversarial-bench" in text
    bare = table.markdown(BARE, "figures")
    assert "dcgan: given; weights ab" in bare
    assert "\n- not shown: training: --retrain trains\n" in bare


def test_a_failure_is_told_by_name():
    assert "collapse: updates 3 to 6: class 1 alone" in table.told(WHOLE).splitlines()


def test_the_log_keeps_what_an_entry_lacks_empty():
    old = {name: value for name, value in ENTRIES[0].items() if not name.startswith("slope")}
    rows = pd.read_csv(io.StringIO(table.log(replace(WHOLE, log=(old,))).csv()))
    assert list(rows.columns) == list(table.LOG)
    assert rows["slope_saturating"].isna().all()
    assert rows["loss_d"].tolist() == [1.5]
    assert len(table.log(BARE)) == 0


def test_coverage_is_a_row_per_update():
    rows = pd.read_csv(io.StringIO(table.coverage(WHOLE).csv()))
    first = next(rows.itertuples())
    assert (first.update, first.samples, first.classes, first.dominant) == (3, 4, 2, 1)
    assert (first.share, first.name, first.counts) == (0.75, "none", "1 3 0")
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert first.entropy == pytest.approx(entropy)
    assert first.kl == pytest.approx(0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.25))
    assert len(table.coverage(BARE)) == 0


# --- failures by name ----------------------------------------------------------------------------

EVEN, DROPPED, FIRST, SECOND = (100, 50, 50), (150, 50, 0), (200, 0, 0), (0, 200, 0)


def looks(*counts):
    return [look(*each, update=10 * place) for place, each in enumerate(counts, start=1)]


def test_stretches_of_a_training_are_named():
    found = findings.over_time(looks(FIRST, FIRST, EVEN, DROPPED, DROPPED, EVEN, FIRST))
    assert [(each.name, each.spans) for each in found] == [
        ("collapse", ((10, 20), (70, 70))),
        ("dropping", ((40, 50),)),
    ]
    text = "while training, 3 of 7 looks, updates 10 to 70; up to 100 % in class 0"
    assert found[0].text == text
    assert found[1].text.endswith("at last class 2 missing or far below the share of the data")
    assert findings.over_time(looks(EVEN, EVEN)) == ()


def test_one_look_is_told_as_one():
    (found,) = findings.over_time(looks(EVEN, FIRST, EVEN))
    assert found.text == "while training, 1 of 3 looks, update 20; 100 % in class 0"
    (found,) = findings.over_time(looks(FIRST, EVEN, SECOND))
    assert found.text.endswith("up to 100 % in classes 0, 1")
    (found,) = findings.now(look(*DROPPED))
    assert found.text == "in the end; class 2 missing or far below the share of the data"


def test_a_collapse_that_moves_is_a_rotating_one():
    (found,) = findings.over_time(looks(FIRST, SECOND, FIRST))
    assert (found.name, found.spans) == ("rotating collapse", ((10, 30),))
    assert found.text.endswith("nearly all in one class, which changes: 0, 1")


def test_what_is_wrong_in_the_end():
    assert findings.now(look(*EVEN)) == ()
    assert [each.name for each in findings.now(look(*DROPPED))] == ["dropping"]
    assert findings.now(look(*EVEN), looks(FIRST, FIRST)) == ()
    (found,) = findings.now(look(*FIRST), looks(EVEN, FIRST, SECOND))
    assert found.name == "rotating collapse"
    assert found.text == "in the end; nearly all in one class, which changes: 0, 1"


def test_many_classes_are_not_all_listed():
    assert findings.listed(range(findings.MANY)).endswith("18, 19")
    assert findings.listed(range(1000)).endswith("18, 19 and 980 more")
