"""`bench features`: sets built, gone on with, read as datasets and refused; features measured."""

import json
import subprocess
import sys
import typing
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
import torch

from bench import cli, data, features_cli
from bench.errors import DataError
from bench.report import features as report
from bench.report.features import Scatter
from defenses import constructed
from defenses.constructed import Construction
from models import checkpoint

BUILD = ["features", "build", "det", "--model", "logreg:epochs=3", "--steps", "4"]
BUILD += ["--images", "600", "--eps", "0.5"]


@pytest.fixture
def bench(capsys, monkeypatch):
    """Runs a command line in this process; status, output, errors."""

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def folder(bench, tmp_path):
    """A set that was built."""
    out = tmp_path / "set"
    status, _, err = bench(*BUILD, "--out", out)
    assert status == 0, err
    return out


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def rewritten(folder, **changes):
    """The folder with a manifest that says something else."""
    (folder / "manifest.json").write_text(json.dumps(manifest_of(folder) | changes))
    return folder


def refusal(folder):
    with pytest.raises(DataError) as caught:
        data.load(f"constructed:path={folder}", None)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- building ------------------------------------------------------------------------------------


def test_the_manifest_says_how_the_set_was_made(folder):
    told = manifest_of(folder)
    tensors, facts = checkpoint.read(folder / "data.safetensors")
    assert set(tensors) == set(constructed.KEYS)
    assert told["data"] == {"file": "data.safetensors", "digest": checkpoint.digest(tensors)}
    assert told["key"] == facts["key"]
    expected = {
        "format": 1,
        "kind": "det",
        "norm": "l2",
        "eps": 0.5,
        "steps": 4,
        "alpha": 0.1,
        "start": "the image itself",
        "seed": 0,
        "images": 600,
    }
    assert expected.items() <= told.items()
    assert told["objective"].startswith("min L(x', t), t y + 1, ||x' - x||_l2 <= 0.5")
    for name in ("loss_start", "loss"):
        values = tensors[name].double()
        assert told[name] == {"mean": float(values.mean()), "median": float(values.median())}
    assert told["loss"]["mean"] < told["loss_start"]["mean"]
    assert 0 <= told["target_reached"] <= 1
    assert told["source"]["model"] == "logreg:epochs=3"
    assert told["source"]["defense"] == "none"
    assert len(told["source"]["weights"]) == 32
    digits = data.load("digits", None)
    assert told["dataset"]["fingerprint"] == digits.fingerprint
    assert told["dataset"]["spec"] == "digits"
    assert told["command"] == f"bench {' '.join(BUILD)} --out {folder}"
    assert told["version"]
    assert sorted(path.name for path in folder.iterdir()) == ["data.safetensors", "manifest.json"]
    # The images are those of the training split, moved.
    x = digits.train.images(tensors["index"])
    assert torch.equal(tensors["label"], digits.train.y[tensors["index"]])
    assert float((tensors["x"] - x).flatten(1).norm(dim=1).max()) <= 0.5 + 1e-6


def test_an_interrupted_build_goes_on_to_the_same_file(bench, folder, tmp_path, monkeypatch):
    made, asked = Construction.made, []

    def interrupted(self, *arguments):
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return made(self, *arguments)

    monkeypatch.setattr(Construction, "made", interrupted)
    out = tmp_path / "again"
    status, _, err = bench(*BUILD, "--out", out)
    assert status == 130
    assert "interrupted; finished images are kept, the same command goes on" in err
    assert [path.name for path in (out / "parts").iterdir()] == ["00000.safetensors"]
    refused = refusal(out)
    assert "must hold manifest.json" in refused
    status, said, _ = bench(*BUILD, "--out", out)
    assert status == 0
    assert "600 images, det" in said
    assert len(asked) == 4, "of three pieces the first was there"
    checkpoint.read(out / "data.safetensors")  # its digest is that of the manifest:
    assert manifest_of(out) | {"command": ""} == manifest_of(folder) | {"command": ""}


def test_a_set_that_is_there_is_not_built_again(bench, folder, monkeypatch):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(Construction, "made", lambda *_: pytest.fail("built again"))
    assert bench(*BUILD, "--out", folder)[0] == 0
    status, _, err = bench(*BUILD, "--seed", 1, "--out", folder)
    assert status == 2
    assert f"bench: {folder} holds another set (det); name another --out" in err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rbust"], "no kind 'rbust'; did you mean 'robust'"),
        (["robust", "--eps", "1"], "robust has no ball: --eps is for rand and det"),
        (["rand", "--eps", "0"], "eps must be above 0, got 0"),
        (["rand", "--norm", "l0"], "norm must be one of linf, l2, l1, got 'l0'"),
        (["rand", "--steps", "0"], "steps must be at least 1, got 0"),
        (["rand", "--alpha", "-1"], "alpha must be finite and above 0, got -1"),
        (["rand", "--images", "1169"], "images must be at most 1168"),
        (["rand", "--model", "mpl"], "no model 'mpl'; did you mean 'mlp'"),
        (["rand", "--dataset", "digit"], "no dataset 'digit'; did you mean 'digits'"),
        (["robust", "--defense", "mardy"], "no defense 'mardy'; did you mean 'madry'"),
        (["rand", "--seed", "-1"], "seed must be from 0 to 2**63 - 1, got -1"),
    ],
)
def test_a_bad_request_is_one_line(bench, tmp_path, arguments, message):
    status, out, err = bench("features", "build", *arguments, "--out", tmp_path / "x")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "x").exists()


def test_kinds_are_those_of_the_builder():
    assert typing.get_args(constructed.Kind) == features_cli.KINDS


def test_help_and_unknown_kinds_import_no_torch():
    code = (
        "import sys, bench.cli\n"
        "try: bench.cli.main()\n"
        "except SystemExit as err: sys.exit(99 if 'torch' in sys.modules else err.code)"
    )
    for arguments, status in (
        (["features", "build", "--help"], 0),
        (["features", "build", "x", "--out", "y"], 2),
        (["features", "build", "det", "--model", "x", "--out", "y"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr


# --- the dataset ---------------------------------------------------------------------------------


def test_it_is_trained_on_and_judged_on_the_original_images(bench, folder, tmp_path):
    digits, made = (data.load(text, None) for text in ("digits", f"constructed:path={folder}"))
    tensors, _ = checkpoint.read(folder / "data.safetensors")
    assert torch.equal(made.train.x, tensors["x"])
    assert torch.equal(made.train.y, (tensors["label"] + 1) % 10)
    assert made.name == "digits:set"
    assert (made.kind, made.classes) == ("digits", 10)
    assert made.fingerprint != digits.fingerprint
    assert torch.equal(made.test.x, digits.test.x)
    assert (made.ids == digits.ids).all()
    assert (made.order == digits.order).all()
    assert torch.equal(made.validation.x, digits.validation.x)
    spec = ["--dataset", f"constructed:path={folder}", "--dataset", "digits"]
    small = [
        "--model",
        "logreg:epochs=1",
        "--attack",
        "fgsm",
        "--n",
        60,
        "--norm",
        "l2",
        "--no-audit",
    ]
    status, _, err = bench("run", *spec, *small, "--eps", "0.5", "--out", tmp_path / "o")
    assert status == 0, err
    table = pd.read_csv(tmp_path / "o" / "accuracy_vs_eps.csv")
    assert set(table.dataset) == {"digits", "digits:set"}


def test_another_set_is_another_dataset(bench, folder, tmp_path):
    other = tmp_path / "other"
    bench(*BUILD, "--seed", 1, "--out", other)
    one, two = (data.load(f"constructed:path={path}", None) for path in (folder, other))
    assert one.fingerprint != two.fingerprint


def test_a_manifest_that_does_not_fit_its_data_is_refused(folder):
    told = manifest_of(folder)
    base, kept = told["dataset"], told["data"]
    cases = {
        "holds 600 images, its manifest says 599": {"images": 599},
        "with fingerprint 00, the one here has": {"dataset": base | {"fingerprint": "00"}},
        f"has digest {kept['digest']}, its manifest says 11": {"data": kept | {"digest": "11"}},
        "must be a manifest of format 1, got format 2": {"format": 2},
        "dataset must name spec and fingerprint, got 3": {"dataset": 3},
    }
    for message, changes in cases.items():
        assert message in refusal(rewritten(folder, **changes))
        rewritten(folder, **told)
    (folder / "manifest.json").write_text("{}")
    assert "got none of format, kind, images, key, dataset, data" in refusal(folder)
    (folder / "manifest.json").write_text("[")
    assert "is no manifest" in refusal(folder)
    (folder / "manifest.json").unlink()
    assert "must hold manifest.json, as `bench features build` writes it" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"x": t["x"][:, :, 1:]}, "must hold float32 images (1, 8, 8) as digits"),
        (lambda t: t | {"x": t["x"].half()}, "must hold float32 images"),
        (lambda t: t | {"x": t["x"] + 1}, "must hold images in [0, 1]"),
        (lambda t: t | {"x": t["x"] * torch.nan}, "must hold images in [0, 1]"),
        (lambda t: t | {"y": t["y"] + 5}, "must hold labels from 0 to 9"),
        (lambda t: {"x": t["x"], "y": t["y"]}, "must hold x, y, index"),
    ],
)
def test_data_that_no_builder_made_is_refused(folder, change, message):
    tensors = change(checkpoint.read(folder / "data.safetensors")[0])
    checkpoint.write(folder / "data.safetensors", tensors, {})
    told = manifest_of(folder)["data"]
    assert message in refusal(rewritten(folder, data=told | {"digest": checkpoint.digest(tensors)}))


def test_damaged_data_is_refused(folder):
    path = folder / "data.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert "does not hold what its digests say" in refusal(folder)
    path.unlink()
    assert "is not a readable safetensors file" in refusal(folder)


# --- measures ------------------------------------------------------------------------------------


def test_measures_are_written(bench, tmp_path):
    small = ["--model", "mlp:epochs=2", "--n", 40, "--steps", 2, "--eps", "0.5"]
    status, said, err = bench("features", "measure", *small, "--out", tmp_path)
    assert status == 0, err
    names = ["features.csv", "features.md", "figures/features_digits_l2.svg"]
    assert said.split() == [str(tmp_path / name) for name in names]
    table = pd.read_csv(tmp_path / names[0])
    assert list(table.columns) == list(report.FEATURES)
    assert list(table.family.unique()) == ["pixel", "logreg row", "unit"]
    assert set(table.n) == {40}
    assert (table.rho > 0).all()
    assert (table.rho <= 1 + 1e-9).all()
    assert (table.gamma <= table.rho + 1e-9).all()
    assert (table[table.family == "logreg row"]["feature"]).nunique() == 10
    text = (tmp_path / names[1]).read_text()
    assert "Made by `bench features measure --model" in text
    assert "digits, mlp:epochs=2 / undefended, l2 eps = 0.5, n = 40" in text
    ET.parse(tmp_path / names[2])  # noqa: S314  our own file
    before = {name: (tmp_path / name).read_bytes() for name in names}
    bench("features", "measure", *small, "--out", tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_a_pipeline_that_is_no_net_and_an_unknown_norm_are_refused(bench, tmp_path):
    status, _, err = bench("features", "measure", "--norm", "l0", "--out", tmp_path)
    assert status == 2
    assert "norm must be one of linf, l2, l1, got 'l0'" in err


def scatter(*rows, sizes=(50, 50)):
    keys = ("family", "feature", "class", "rho", "gamma", "method")
    made = tuple(dict(zip(keys, row, strict=True)) for row in rows)
    return Scatter("digits", "mlp", "none", "l2", 0.5, sizes, made, "bench features measure")


def test_verdicts_follow_rho_and_gamma():
    # Standard error with 50 images each: sqrt(2 / 50) / 2 = 0.1.
    made = scatter(
        ("unit", 0, 0, 0.9, 0.1, "attack"),
        ("unit", 1, 0, 0.95, -0.1, "attack"),
        ("unit", 2, 1, 0.29, -3.0, "attack"),
        ("pixel", 0, 1, 0.31, 0.0, "exact"),
    )
    table = report.features(made).frame()
    assert list(table.feature) == [1, 0, 2, 0], "by family, the most useful first"
    assert list(table.verdict) == ["non-robust", "robust", "not useful", "robust"]
    text = report.markdown(made)
    assert "| unit | 1 | 1 | 1 | 0.950 | 0.100 |" in text
    assert "| pixel | 1 | 0 | 0 | 0.310 | 0.000 |" in text
    assert report.svg(made) == report.svg(made)
    assert report.figure_name(made) == "features_digits_l2.svg"
