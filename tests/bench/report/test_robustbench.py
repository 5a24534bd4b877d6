"""Rows in RobustBench's shape, and claims read from such files."""

import json
from collections.abc import Callable
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bench import cli
from bench.audit.findings import Finding, Verdict
from bench.errors import RequestError
from bench.report import claims, frames, robustbench
from bench.report.export import as_robustbench
from bench.report.frames import Entry
from bench.report.write import write
from bench.store import Record, Store

MakeRecord = Callable[..., Record]
KANG = {
    "link": "https://arxiv.org/abs/2110.12976",
    "name": "Stable Neural ODE | with Lyapunov-Stable Equilibrium Points",
    "authors": "Qiyu Kang, Yang Song, Qinxu Ding, Wee Peng Tay",
    "additional_data": True,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "NeurIPS 2021",
    "architecture": "WideResNet-70-16, Neural ODE block",
    "eps": "8/255",
    "clean_acc": "93.73",
    "reported": "71.28",
    "autoattack_acc": "71.28",
    "external": "64.20",
    "footnote": "64.20% robust accuracy is due to AutoAttack plus transfer APGD",
    "unreliable": True,
}
"""As RobustBench has it, a little shortened, and a bar put into the name."""
OLD = {name: KANG[name] for name in list(KANG)[:11]}


def put(folder: Path, fields: Any, name: str = "Linf/Kang2021Stable.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return path


def run(*words: str | Path) -> Any:
    return typer.main.get_command(cli.app)(list(map(str, words)), standalone_mode=False)


def test_fields_are_those_of_robustbench(record: MakeRecord) -> None:
    # right at 0.2: two of four under square alone, one under both
    cells = [
        record([0, 0.1, 0.2, inf], provenance={"objective": "L(x, y)", "passes": 3}),
        record([0, 0.3, inf, inf], attack="square", mode="black-box"),
    ]
    found = robustbench.info(Entry.of_cells(cells))
    assert list(found) == [
        *list(KANG)[:11],
        "external",
        "unreliable",
        "footnote",
    ]
    assert found["name"] == "cnn / none"
    assert (found["eps"], found["clean_acc"], found["reported"]) == ("0.2", "75.00", "25.00")
    assert found["external"] == "25.00"
    assert found["number_forward_passes"] == 3
    assert found["unreliable"] is False
    assert found["additional_data"] is False
    assert "on 4 test images" in found["footnote"]
    assert "worst case over pgd (white-box), square (black-box)." in found["footnote"]
    assert "95 % Wilson interval [4.56, 69.94]" in found["footnote"]


def test_autoattack_is_named_where_it_was_run(record: MakeRecord) -> None:
    standard = record([0, 0.1, 0.3, inf], attack="autoattack")
    alone = robustbench.info(Entry.of_cells([standard]))
    assert alone["autoattack_acc"] == alone["reported"] == "50.00"
    assert "external" not in alone
    worse = robustbench.info(Entry.of_cells([standard, record([0, 0.3, 0.2, inf])]))
    assert (worse["autoattack_acc"], worse["external"]) == ("50.00", "25.00")
    for other in ({"attack": "autoattack:steps=5"}, {"attack": "autoattack", "mode": "oblivious"}):
        assert "autoattack_acc" not in robustbench.info(
            Entry.of_cells([record([0, 0.1, 0.3, inf], **other)])
        )


def test_what_limits_a_row_stands_in_its_footnote(record: MakeRecord) -> None:
    row = robustbench.info(Entry.of_cells([record([0.3] * 4, query_budget=50)]))
    assert "at most 50 forward queries per image and eps" in row["footnote"]
    assert "on what data the net was trained is not known" in row["footnote"]


def test_a_suspect_row_is_unreliable(record: MakeRecord) -> None:
    told = Verdict((Finding("zero gradient", "suspect", "zero gradients"),))
    cells = [record([0.3] * 4)]
    assert robustbench.info(Entry.of_cells(cells, told))["unreliable"] is True
    assert robustbench.info(Entry.of_cells(cells))["unreliable"] is False


def test_a_fraction_without_a_short_decimal_stays_one(record: MakeRecord) -> None:
    grid = (Fraction(0), Fraction(8, 255))
    cell = record([inf] * 4, eps=grid, reference=grid[1])
    assert robustbench.info(Entry.of_cells([cell]))["eps"] == "8/255"


def test_a_file_for_each_row_that_has_a_number(record: MakeRecord, tmp_path: Path) -> None:
    records = [
        record([0, 0.1, inf, inf]),
        record([inf] * 4, pipeline="another net of the same name"),
        record([inf] * 4, defense="advtrain:lam=1,eps=0.3", norm="l2"),
        record(None, defense="madry"),
    ]
    made = as_robustbench(records, tmp_path)
    assert [path.relative_to(tmp_path / "robustbench").as_posix() for path in made] == [
        "digits/Linf/cnn__none.json",
        "digits/Linf/cnn__none_2.json",
        "digits/L2/cnn__advtrain_lam=1_eps=0.3.json",
    ]
    # what is written can be read as a claim
    again = claims.read(made[2])
    assert (again.norm, again.robust) == ("l2", (1.0, "external"))
    assert json.loads(made[0].read_text()) == dict(claims.read(made[0]).fields)


def test_a_claim_is_the_lowest_value_that_is_known(tmp_path: Path) -> None:
    assert claims.read(put(tmp_path, KANG)).robust == (pytest.approx(0.642), "external")
    without = {name: value for name, value in KANG.items() if name != "external"}
    assert claims.read(put(tmp_path, without)).robust == (pytest.approx(0.7128), "autoattack")
    assert claims.read(put(tmp_path, OLD)).robust == (pytest.approx(0.7128), "reported")
    row = claims.read(put(tmp_path, KANG)).row()
    assert (row["norm"], row["eps"], row["clean_accuracy"]) == ("linf", 8 / 255, 0.9373)
    assert row["source"] == "Kang2021Stable.json"


def test_numbers_and_truths_may_stand_as_texts(tmp_path: Path) -> None:
    texts = KANG | {
        "number_forward_passes": "1",
        "additional_data": "True",
        "unreliable": "true",
        "clean_acc": 93.73,
    }
    assert dict(claims.read(put(tmp_path, texts)).fields) == KANG


def changed(**fields: Any) -> dict[str, Any]:
    return KANG | fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("[1, 2]", "a claim is an object with fields such as clean_acc"),
        ("{", "it is not JSON"),
        ('{"clean_acc": NaN}', "NaN is no number"),
        ('{"eps": "1", "eps": "2"}', "a field stands there twice"),
        ("[" * 20_000, "recursion"),
        ('{"eps": ' + "9" * 5000 + "}", "digits"),
        ({}, "field link is missing"),
        ({**OLD, "clean_acc": None}, "clean_acc must be a percentage from 0 to 100, got 'None'"),
        (changed(surprise=1), "unknown field 'surprise'"),
        (changed(corruptions_acc="70"), "it is about corruptions, which have no norm and no eps"),
        (changed(external="120"), "external must be a percentage from 0 to 100, got '120'"),
        (changed(external="nan"), "external must be a percentage from 0 to 100, got 'nan'"),
        (changed(reported=True), "reported must be a percentage from 0 to 100, got 'True'"),
        (changed(eps="a lot"), "eps must be a number such as 0.3 or 8/255, got 'a lot'"),
        (changed(eps="-1"), "eps must be at least 0, got '-1'"),
        (changed(eps=None), "eps must be a text of at most 2,000 characters"),
        (changed(name="x" * 2001), "name must be a text of at most 2,000 characters"),
        (changed(dataset=" "), "dataset must not be empty"),
        (changed(unreliable="maybe"), "unreliable must be true or false, got 'maybe'"),
        (changed(number_forward_passes="-1"), "number_forward_passes must be a whole number"),
        (changed(footnote="x" * 70_000), "a claim has at most 65,536 bytes"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(fields: Any, message: str, tmp_path: Path) -> None:
    path = put(tmp_path, fields)
    with pytest.raises(RequestError) as caught:
        claims.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 310


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        claims.read(tmp_path / "none.json")
    path = put(tmp_path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="it is not text in UTF-8"):
        claims.read(path)


def test_the_norm_is_that_of_the_folder_unless_given(tmp_path: Path) -> None:
    assert claims.read(put(tmp_path, KANG, "L2/x.json")).norm == "l2"
    loose = put(tmp_path, KANG, "elsewhere/x.json")
    with pytest.raises(RequestError, match=r"its folder says no norm .*--norm is needed"):
        claims.read(loose)
    assert claims.read(loose, "l1").norm == "l1"


def test_claims_stand_apart_and_have_no_rank(record: MakeRecord, tmp_path: Path) -> None:
    with Store.open(tmp_path):
        pass
    source = put(tmp_path / "theirs", KANG)
    run("import", source, "--out", tmp_path)
    assert (tmp_path / "claims/cifar10/Linf/Kang2021Stable.json").is_file()
    records = [record([0, 0.1, inf, inf])]
    without = frames.leaderboard(records).csv()
    written = {path.relative_to(tmp_path).as_posix() for path in write(records, tmp_path)}
    assert "claims.csv" in written
    assert (tmp_path / "leaderboard.csv").read_text() == without
    text = (tmp_path / "leaderboard.md").read_text()
    measured, claimed = text.split("## Claims of others: cifar10, linf, eps = 8/255 (0.03137)")
    assert "Neural ODE" not in measured
    row = next(line for line in claimed.splitlines() if "Neural ODE" in line)
    cells = [cell.strip() for cell in row.replace("\\|", "/").strip("|").split("|")]
    assert cells == [
        "Stable Neural ODE / with Lyapunov-Stable Equilibrium Points",
        "WideResNet-70-16, Neural ODE block",
        "93.7",
        "64.2",
        "external",
        "yes",
        "cifar10/Linf/Kang2021Stable.json",
    ]
    assert "n unknown, hence no interval and no rank" in claimed
    assert "the full test set" in claimed
    header, line = (tmp_path / "claims.csv").read_text().splitlines()
    assert header == ",".join(claims.CLAIMS)
    assert line.startswith("cifar10,linf,0.03137254901960784,")


def test_nothing_is_kept_of_several_files_one_of_which_is_bad(tmp_path: Path) -> None:
    good = put(tmp_path, KANG)
    bad = put(tmp_path, {}, "Linf/bad.json")
    with pytest.raises(RequestError, match="field link is missing"):
        run("import", good, bad, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RequestError, match="two of the files"):
        run("import", good, put(tmp_path, KANG, "other/Linf/Kang2021Stable.json"))
    with pytest.raises(RequestError, match="norm must be one of linf, l2, l1, l0, got 'l3'"):
        run("import", good, "--norm", "l3")


def test_names_of_strangers_stay_inside_the_folder(tmp_path: Path) -> None:
    hostile = put(tmp_path, changed(dataset="../../../etc"), "Linf/..json")
    run("import", hostile, "--out", tmp_path / "out")
    kept = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.json")]
    assert [path.as_posix() for path in kept] == ["claims/etc/Linf/_.json"]


def test_export_writes_the_rows_of_a_store(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    command = ["run", "--model", "logreg:epochs=1", "--attack", "fgsm", "--eps", "0,0.1"]
    run(*command, "--n", "20", "--quiet", "--out", out)
    capsys.readouterr()
    run("export", "--out", out, "--format", "robustbench")
    (path,) = map(Path, capsys.readouterr().out.split())
    assert path == out / "export/robustbench/digits/Linf/logreg_epochs=1__none.json"
    fields = claims.read(path).fields
    assert fields["dataset"] == "digits"
    assert "on 20 test images" in fields["footnote"]
    with pytest.raises(RequestError, match="format must be one of tables, robustbench, got 'x'"):
        run("export", "--out", out, "--format", "x")
