"""Cells and their keys: equal requests agree, whatever may move a number is in the key."""

import dataclasses
from fractions import Fraction

import pytest

from bench.plan import BLOCK, AttackPart, Cell, DataPart, Numerics, Part, by_pipeline, missing

CELL = Cell(
    data=DataPart("digits", "f" * 32, 500, "s" * 32, Fraction(3, 20)),
    model=Part("cnn_small", {"name": "cnn_small", "seed": 0}),
    defense=Part("none", {"name": "none"}),
    attack=AttackPart("pgd", {"name": "pgd", "revision": 1}, "white-box", "budget", 164),
    norm="linf",
    eps=(Fraction(0), Fraction(1, 20), Fraction(1, 10)),
    seed=0,
    sweep="ladder",
    numerics=Numerics("fp32", "cpu", 128, 2, 1),
)


def changed(**changes):
    return dataclasses.replace(CELL, **changes)


@pytest.mark.parametrize(
    "other",
    [
        changed(data=dataclasses.replace(CELL.data, fingerprint="0" * 32)),
        changed(data=dataclasses.replace(CELL.data, samples="0" * 32)),
        changed(model=Part("cnn_small", {"name": "cnn_small", "seed": 1})),
        changed(defense=Part("none", {"name": "none", "revision": 2})),
        changed(attack=dataclasses.replace(CELL.attack, identity={"name": "pgd", "revision": 2})),
        changed(attack=dataclasses.replace(CELL.attack, mode="transfer")),
        changed(norm="l2"),
        changed(eps=(Fraction(0), Fraction(1, 20))),
        changed(seed=1),
        changed(sweep="independent"),
        changed(numerics=dataclasses.replace(CELL.numerics, precision="bf16")),
        changed(numerics=dataclasses.replace(CELL.numerics, channels_last=True)),
        changed(numerics=dataclasses.replace(CELL.numerics, device="cuda")),
        changed(numerics=dataclasses.replace(CELL.numerics, shape=64)),
        changed(numerics=dataclasses.replace(CELL.numerics, threads=1)),
        changed(numerics=dataclasses.replace(CELL.numerics, engine=2)),
    ],
)
def test_whatever_may_move_a_number_is_in_the_key(other):
    assert other.key != CELL.key


def test_names_are_not_in_the_key():
    renamed = changed(
        data=dataclasses.replace(CELL.data, name="other", reference=None),
        model=Part("another text", CELL.model.identity),
    )
    assert renamed.key == CELL.key == changed().key
    assert len(CELL.key) == 32


def test_queries_at_most():
    # Two restarts of 41 looks at each of two radii above 0 are 164 a sample; 500 samples.
    assert CELL.most_queries == 2 * 41 * 2 * 500


def test_missing_names_the_blocks_that_are_not_stored():
    assert CELL.blocks == 2 == -(-500 // BLOCK)
    assert [item.blocks for item in missing([CELL], {})] == [(0, 1)]
    assert [item.blocks for item in missing([CELL], {CELL.key: [1]})] == [(0,)]
    assert missing([CELL], {CELL.key: [0, 1]}) == []


def test_cells_of_one_pipeline_stay_together():
    fgsm = changed(attack=dataclasses.replace(CELL.attack, identity={"name": "fgsm"}))
    trained = changed(defense=Part("advtrain", {"name": "advtrain"}))
    groups = by_pipeline(missing([CELL, trained, fgsm], {}))
    assert [[item.cell.key for item in group] for group in groups] == [
        [CELL.key, fgsm.key],
        [trained.key],
    ]
