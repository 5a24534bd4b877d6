"""Findings and verdicts from planted cells and audits: each check with a case that it must find and
one that it must not."""

from fractions import Fraction

import numpy as np
import pytest

from bench.audit.case import Case
from bench.audit.findings import NOT_AUDITED, Finding, Verdict, severity
from bench.audit.verdict import verdict
from bench.plan import AUDIT
from bench.report import figures, frames
from bench.report.audit import audits
from bench.report.comparisons import comparisons
from bench.report.frames import leaderboard, tidy
from bench.report.html import page
from bench.report.markdown import accuracy, audit, summary
from bench.report.markdown import leaderboard as leaderboard_text
from tests.bench.report.conftest import make

N = 20
INF = np.inf
EPS = Fraction(2, 10)


def looked(noted=None, **facts):
    """An audit of N images: what it noted of each (a list is filled up with its last value)."""
    return looked_of(N, noted, **facts)


def looked_of(count, noted=None, **facts):
    arrays = {
        name: np.array([*values, *[values[-1]] * (count - len(values))], np.float32)
        for name, values in ({"stood:noise": [1.0]} | (noted or {})).items()
    }
    known = {"skipped": {}, "budget": 50000, **facts}
    return make(
        [INF] * count,
        attack="audit",
        kind=AUDIT,
        eps=(Fraction(0), EPS),
        provenance={"audit": known},
        samples=arrays,
    )


def standing(count=N, **changes):
    """A cell whose first `count` images stand at every eps; the others fell at 0.1."""
    return make([INF] * count + [0.1] * (N - count), **changes)


def level_of(check, *cells, **look):
    """The level of a check's finding, of these cells (one that stands where there are none)."""
    told = verdict(Case(list(cells) or [standing()], [looked(**look)]))
    return next(one.level for one in told.findings if one.check == check)


def first(count, value, rest):
    """A value of the first images, another of the rest."""
    return [value] * count + [rest]


NOTED = [
    ("constant answers", "constant", 1.0, 0.1),
    ("zero gradient (cross-entropy)", "zero:cross-entropy", 1.0, 0.0),
    ("zero gradient (margin)", "zero:margin", 1.0, 0.0),
    ("finite gradient", "broken:margin", 1.0, 0.0),
    ("cross-entropy beats the rows", "stood:cross-entropy", 0.0, 1.0),
    ("margin beats the rows", "stood:margin", 0.0, 1.0),
    ("one step beats the rows", "stood:one step", 0.0, 1.0),
    ("noise beats the rows", "stood:noise", 0.0, 1.0),
    ("restart beats the rows", "stood:restart", 0.0, 1.0),
    ("longer beats the rows", "stood:longer", 0.0, 1.0),
    ("square beats the rows", "stood:square", 0.0, 1.0),
    ("probes beat the rows", "stood:noise", 0.0, 1.0),
    ("unbounded", "stood:unbounded", 1.0, 0.0),
]


@pytest.mark.parametrize(("check", "name", "bad", "good"), NOTED, ids=[row[0] for row in NOTED])
def test_six_images_of_twenty_make_a_number_suspect_and_one_is_a_warning(check, name, bad, good):
    assert level_of(check, noted={name: first(6, bad, good)}) == "suspect"
    assert level_of(check, noted={name: first(1, bad, good)}) == "warn"
    assert level_of(check, noted={name: [good]}) == "pass"


@pytest.mark.parametrize(("check", "name", "bad", "good"), NOTED, ids=[row[0] for row in NOTED])
def test_images_that_fell_anyway_count_for_nothing(check, name, bad, good):
    fallen = standing(0)
    assert level_of(check, fallen, noted={name: [bad]}) == "pass"


def test_a_success_counts_for_the_first_probe_that_had_it():
    noted = {"stood:margin": [0.0, 1.0], "stood:noise": [0.0, 0.0, 1.0]}
    told = verdict(Case([standing()], [looked(noted)]))
    texts = {one.check: one.text for one in told.findings}
    left = "that the rows left standing"
    assert texts["margin beats the rows"] == f"PGD on a margin loss breaks 1 of 20 images {left}"
    assert texts["noise beats the rows"] == f"random noise breaks 1 of 19 images {left}"
    assert texts["probes beat the rows"] == f"cheap attacks break 2 of 20 images {left}"


def test_the_images_that_were_tried_stand_for_those_that_were_not():
    # 4 of the 9 tried of 20: much of what stands, but fewer than six images.
    assert level_of("longer beats the rows", noted={"stood:longer": tried(4, 9)}) == "warn"
    assert level_of("longer beats the rows", noted={"stood:longer": tried(6, 12)}) == "suspect"
    # 5 of 12 that stand of 200 are 2.5 %.
    few = make([INF] * 12 + [0.1] * 188)
    look = looked_of(200, {"stood:longer": tried(5, 12, of=200)})
    told = verdict(Case([few], [look]))
    assert next(f.level for f in told.findings if f.check == "longer beats the rows") == "warn"


def test_half_of_what_stood_is_as_bad_as_many():
    few = make([INF] * 6 + [0.1] * 94)
    for fell, level in ((3, "suspect"), (2, "warn")):
        look = looked_of(100, {"stood:square": tried(fell, 6, of=100)})
        told = verdict(Case([few], [look]))
        assert next(f.level for f in told.findings if f.check == "square beats the rows") == level
    # 3 of 20 that stand are not most of them.
    assert level_of("square beats the rows", noted={"stood:square": tried(3, 20)}) == "warn"


def test_of_a_pipeline_that_draws_images_are_counted_by_their_draws():
    draws = np.array([[INF] * 7 + [0.1] * 3] * N)
    cell = make([0.1] * N, samples={"draws": draws})
    # 3 draws fewer of each image are 6 images, as many as 6 that fell under all of them.
    assert level_of("noise beats the rows", cell, noted={"stood:noise": [0.4]}) == "suspect"
    # Some more here and some fewer there come to nothing.
    mixed = [0.6, 0.8] * (N // 2)
    assert level_of("noise beats the rows", cell, noted={"stood:noise": mixed}) == "pass"


def tried(fell, of_tried, of=N):
    """The first fell, of so many tried; the others were not."""
    return [0.0] * fell + [1.0] * (of_tried - fell) + [np.nan] * (of - of_tried)


FACTS = [
    ("probabilities", "probabilities", True, False),
    ("recorded", "recorded", 0.5, 1e-6),
    ("drift", "drift", 0.5, 1e-6),
    ("gradient path", "path", "no gradient", ""),
]


@pytest.mark.parametrize(("check", "name", "bad", "good"), FACTS, ids=[row[0] for row in FACTS])
def test_how_a_pipeline_answers(check, name, bad, good):
    assert level_of(check, **{name: bad}) == "suspect"
    assert level_of(check, **{name: good}) == "pass"


@pytest.mark.parametrize(
    ("check", "name", "bad", "good"),
    [("unstable predictions", "unstable", 0.3, 0.01), ("incomplete optimisation", "rising", 1, 0)],
)
def test_indicators_that_contradict_nothing_are_warnings(check, name, bad, good):
    assert level_of(check, noted={name: [bad]}) == "warn"
    assert level_of(check, noted={name: first(N // 2, bad, good)}) == "pass"
    assert level_of(check, noted={name: [good]}) == "pass"


def test_successes_that_the_re_check_refused():
    lost = {"refused": np.array([1] * 6 + [0] * 14)}
    assert level_of("lost successes", standing(samples=lost)) == "suspect"
    assert level_of("lost successes", standing()) == "pass"
    # A success at another eps came all the same.
    assert level_of("lost successes", standing(0, samples=lost)) == "pass"
    # Of what only stands in for the pipeline it is a warning.
    assert level_of("stand-in", standing(samples=lost, mode="bpda")) == "warn"
    assert level_of("stand-in", standing(mode="bpda")) == "pass"


@pytest.mark.parametrize("mode", ["black-box", "transfer", "oblivious"])
def test_attacks_without_gradients_that_beat_those_with_them(mode):
    check = "black-box or transfer beats white-box"
    white, other = standing(), standing(10, attack="square", mode=mode)
    assert level_of(check, white, other) == "suspect"
    assert level_of(check, standing(10), standing(attack="square", mode=mode)) == "pass"
    # 6 fall to the one alone and 10 to the other alone: they add to one another.
    mixed = make([0.1] * 6 + [INF] * 14, attack="square", mode=mode)
    seeing = make([INF] * 6 + [0.1] * 10 + [INF] * 4)
    assert level_of(check, seeing, mixed) == "warn"


def test_a_larger_eps_that_breaks_fewer_images():
    def bits(more):
        return np.array([[0, 1, 1, 1]] * (N - more) + [[0, 1, 0, 0]] * more, np.uint8)

    for more, level in ((6, "suspect"), (0, "pass")):
        cell = standing(0, sweep="independent", samples={"fooled": bits(more)})
        assert level_of("monotone in eps", cell) == level


def test_failures():
    assert level_of("failed attacks", standing(), make(n=N)) == "warn"
    assert level_of("failed attacks", make(n=N)) == "suspect"


def test_a_probe_that_was_not_answered_is_a_warning():
    told = verdict(Case([standing()], [looked(errors={"margin": "NaN for 3 of 20 images"})]))
    assert told.text == "warn: margin: NaN for 3 of 20 images"


def test_skipped_checks_are_named_and_do_not_decide():
    told = verdict(Case([standing()], [looked(skipped={"square": "0 of 10 queries left"})]))
    skipped = [one for one in told.findings if one.level == "skipped"]
    assert [one.text for one in skipped] == ["skipped: 0 of 10 queries left"]
    assert (told.level, told.text) == ("pass", "pass (1 check skipped)")


def test_the_text_names_the_first_of_the_worst():
    found = (Finding("a", "suspect", "x"), Finding("b", "suspect", "y"), Finding("c", "warn", "z"))
    assert Verdict(found).text == "suspect: x (and 1 more)"
    assert Verdict(found[2:]).text == "warn: z"
    assert Verdict(()).text == "none"
    texts = ["none", "warn: z", "pass", "suspect: x"]
    assert sorted(texts, key=severity) == ["suspect: x", "warn: z", "pass", "none"]


def test_nothing_is_said_without_an_audit_and_a_failed_one_is_a_warning():
    assert verdict(Case([standing()], [])) is NOT_AUDITED
    failed = make(n=N, attack="audit", kind=AUDIT, failure="out of memory")
    assert verdict(Case([standing()], [failed])).text == "warn: audit failed: out of memory"


def test_an_audit_of_other_images_is_compared_by_id():
    look = looked(noted={"stood:margin": first(6, 0.0, 1.0)})
    shuffled = standing()
    order = np.arange(N)[::-1]
    for name in ("id", "min_eps"):
        shuffled.samples[name] = shuffled.samples[name][order]
    assert verdict(Case([shuffled], [look])).level == "suspect"
    foreign = standing(samples={"id": np.arange(N) + 1000})
    checks = {one.check for one in verdict(Case([foreign], [look])).findings}
    assert "margin beats the rows" not in checks


def board():
    """Three pipelines, the most accurate of which is suspect."""
    bad = {"stood:margin": first(10, 0.0, 1.0)}
    fake = standing(N, defense="fake")
    honest = standing(12, defense="honest")
    return [
        *(fake, make_audit_of(fake, looked(bad))),
        *(honest, make_audit_of(honest, looked())),
        standing(4, defense="unseen"),
    ]


def make_audit_of(cell, look):
    """The audit as that of the cell's pipeline."""
    return type(look)(**{**vars(look), "defense": cell.defense, "pipeline": cell.pipeline})


def test_a_suspect_row_stands_below_the_others_without_a_rank():
    rows = list(leaderboard(board()))
    shown = [(row["defense"], row["rank"], row["audit"].partition(":")[0]) for row in rows]
    assert shown == [("honest", 1, "pass"), ("unseen", 2, "none"), ("fake", None, "suspect")]


def test_a_suspect_number_is_printed_as_an_upper_bound_everywhere():
    records = board()
    assert "&lt;= 100.0 [" in leaderboard_text(records)
    line = next(line for line in accuracy(records).splitlines() if "| fake" in line)
    assert line.count("&lt;=") == 3, "at each eps above 0"
    assert "<= 100.0 [" in summary(records)
    assert "cnn / fake: suspect: PGD on a margin loss breaks 10 of 20" in summary(records)
    assert "&lt;= 60.0" not in leaderboard_text(records)


def test_audits_are_in_no_other_table():
    records = board()
    assert {row["attack"] for row in tidy(records)} == {"pgd", "worst-case"}
    told = {row["defense"]: row["audit"] for row in tidy(records)}
    assert told["unseen"] == "none"
    assert told["honest"] == "pass"


def test_the_table_of_findings():
    rows = list(audits(board()))
    assert {row["defense"] for row in rows} >= {"fake", "honest"}
    found = [row for row in rows if row["level"] == "suspect"]
    assert {row["check"] for row in found} == {"margin beats the rows", "probes beat the rows"}
    assert (found[0]["forward_queries"], found[0]["budget"]) == (10 * N, 50000)
    assert (found[0]["backward_queries"], found[0]["n"]) == (4 * N, N)
    text = audit(board())
    assert "PGD on a margin loss breaks 10 of 20 images that the rows left standing" in text
    assert audits([standing()]).rows == []


def test_figures_and_comparisons_say_so_too():
    records = board()
    (drawn,) = figures.figures(frames.curves(records)).values()
    assert "fake: pgd (suspect)" in drawn
    assert "honest: pgd (suspect)" not in drawn
    rows = {(r["first_defense"], r["second_defense"]): r for r in comparisons(records)}
    assert rows["fake", "honest"]["verdict"] == "first better, suspect"
    assert rows["honest", "unseen"]["verdict"] == "first better"
    assert rows["fake", "honest"]["first_audit"].startswith("suspect: ")


def test_the_page_has_the_findings_and_the_comparisons():
    shown = page(board(), {})
    for part in ("<h2>Audit</h2>", "PGD on a margin loss breaks 10 of 20", "<h2>Comparisons</h2>"):
        assert part in shown
    assert "<h2>Audit</h2>" not in page([standing()], {})


def test_an_audit_at_another_eps_says_nothing_of_the_row():
    near = looked()
    near = type(near)(**{**vars(near), "eps": (Fraction(0), Fraction(1, 10)), "key": "near"})
    bad = looked(noted={"stood:margin": first(6, 0.0, 1.0)})
    for audits_ in ([near, bad], [bad, near]):
        assert verdict(Case([standing()], audits_)).level == "suspect"
    assert verdict(Case([standing()], [near])).text == "warn: not audited at this eps"


def test_attacks_without_a_budget_say_nothing_of_rows_under_one():
    told = verdict(Case([standing(query_budget=50)], [looked({"stood:margin": [0.0]})]))
    assert told.level == "pass"
    assert [one.level for one in told.findings if one.check == "probes beat the rows"] == [
        "skipped"
    ]


def test_where_no_attack_was_run_that_is_a_warning():
    look = looked(skipped=dict.fromkeys(["cross-entropy", "margin", "square"], "0 queries left"))
    for name in [name for name in look.samples if name.startswith("stood:")]:
        del look.samples[name]
    assert verdict(Case([standing()], [look])).text.startswith("warn: no attack of the audit fits")


def test_a_failure_on_fewer_images_is_history():
    told = verdict(Case([standing(), make(n=5)], [looked(noted={"stood:noise": [1.0]})]))
    assert told.text == "pass"


def test_what_another_attack_breaks_is_not_lost():
    lost = {"refused": np.array([1] * 6 + [0] * 14)}
    assert level_of("lost successes", standing(samples=lost), standing(0, attack="cw")) == "pass"
