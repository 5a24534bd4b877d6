"""Specs: what is read, what is refused and in which words; what a recipe is for a digest."""

import importlib.metadata
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.bim import Bim
from attacks.fgsm import Fgsm
from attacks.losses import LOSSES
from attacks.pgd import Pgd
from attacks.registry import attacks
from defenses.advtrain import AdversarialTraining
from defenses.registry import defenses
from models import registry
from models.grammar import Spec, UnknownName, number, parse, without
from models.recipes import CnnSmall, Logreg
from models.registry import Registry, canonical, models


@dataclass(frozen=True)
class Toy:
    """A recipe with every type of key (Nobody et al. 1999, arXiv:9901.00001).

    More about it.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    access: ClassVar[str] = "labels"
    kind: ClassVar[str] = "minimal"
    count: int = 3
    share: float = 0.5
    bold: bool = False
    note: str = "plain"
    shade: Literal["light", "dark"] = "light"
    most: int | None = None
    least: float | None = 0.25
    inner: Pgd = Pgd(steps=2)  # noqa: RUF009  a frozen dataclass

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count must be at least 0, got {self.count}")


@dataclass(frozen=True)
class Demanding:
    """A recipe with keys that must be given."""

    path: str
    size: int
    weights: str | None = field(default=None, metadata={"content": True})
    colour: str = field(default_factory=lambda: "red")


@dataclass(frozen=True)
class Keyless:
    """A recipe without keys."""


toys = Registry(
    "toy",
    {
        "toy": f"{__name__}:Toy",
        "demanding": f"{__name__}:Demanding",
        "keyless": f"{__name__}:Keyless",
    },
)


def refusal(table, text, error=ValueError):
    """The one line that a spec is refused with."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is what is compared
        table.get(text)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the grammar ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("pgd", "pgd", {}),
        (" pgd ", "pgd", {}),
        ("pgd:steps=40,restarts=5", "pgd", {"steps": "40", "restarts": "5"}),
        ("pgd: steps = 40 , restarts=5", "pgd", {"steps": "40", "restarts": "5"}),
        (
            "advtrain:attack=[pgd:steps=7,alpha=2/255],lam=1",
            "advtrain",
            {"attack": "pgd:steps=7,alpha=2/255", "lam": "1"},
        ),
        ("advtrain:attack=pgd:steps=7", "advtrain", {"attack": "pgd:steps=7"}),
        ("a:b=[c:d=[e:f=1,g=2],h=3]", "a", {"b": "c:d=[e:f=1,g=2],h=3"}),
        ("a:b=[c]+[d]", "a", {"b": "[c]+[d]"}),
        ("a:b=[[c:e=1]+[d:e=2]]", "a", {"b": "[c:e=1]+[d:e=2]"}),
        ("npz:path=a=b", "npz", {"path": "a=b"}),
        ("dir/net.py:make", "dir/net.py:make", {}),
        ("dir/net.py:make:width=3", "dir/net.py:make", {"width": "3"}),
        ("lr=0.1/net.py:make:width=3", "lr=0.1/net.py:make", {"width": "3"}),
        ("a.b.c:make:width=3", "a.b.c:make", {"width": "3"}),
        ("x:attack=[my.py:Mine:steps=2]", "x", {"attack": "my.py:Mine:steps=2"}),
    ],
)
def test_specs_are_read(text, name, options):
    assert parse(text) == Spec(name, tuple(options.items()))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "a spec is NAME[:KEY=VALUE,...], got ''"),
        (":", "a spec is NAME[:KEY=VALUE,...], got ':'"),
        ("pgd:", "a spec is NAME[:KEY=VALUE,...], got 'pgd:'"),
        (":steps=1", "a spec is NAME[:KEY=VALUE,...], got ':steps=1'"),
        ("pgd:steps=1,", "an option is KEY=VALUE, got ''"),
        ("pgd:steps=1,random", "an option is KEY=VALUE, got 'random'"),
        ("pgd:steps=", "an option is KEY=VALUE, got 'steps='"),
        ("pgd:=3", "an option is KEY=VALUE, got '=3'"),
        ("pgd:steps=1,steps=2", "key 'steps' stands twice"),
        ("a:b=[c:d=1", "brackets must be balanced"),
        ("a:b=c]", "brackets must be balanced"),
        ("a:b=]c[", "brackets must be balanced"),
    ],
)
def test_what_is_no_spec_is_refused_with_the_rule(text, rule):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is what is compared
        parse(text)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.1", 0.1), ("1e-3", 1e-3), ("inf", math.inf)],
)
def test_floats_are_decimals_fractions_or_inf(text, value):
    assert number(text) == value
    assert toys.get(f"toy:share={text}").share == value


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("toy:count=4", {"count": 4}),
        ("toy:bold=true", {"bold": True}),
        ("toy:bold=False", {"bold": False}),
        ("toy:shade=dark", {"shade": "dark"}),
        ("toy:most=7", {"most": 7}),
        ("toy:most=none,least=None", {"most": None, "least": None}),
        ("toy:note=none", {"note": "none"}),
        ("toy:note=[a,b]", {"note": "a,b"}),
        ("toy:inner=pgd", {"inner": Pgd()}),
        ("toy:inner=[pgd]", {"inner": Pgd()}),
        ("toy:inner=[pgd:steps=9,loss=margin],count=1", {"inner": "pgd", "count": 1}),
    ],
)
def test_values_are_read_by_the_type_of_their_key(text, changes):
    if changes.get("inner") == "pgd":
        changes = changes | {"inner": Pgd(steps=9, loss=LOSSES["margin"])}
    assert toys.get(text) == replace(Toy(), **changes)


# --- refusals ------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_the_nearest_known_ones():
    message = refusal(models, "cnn_smal", UnknownName)
    assert message.startswith("no model 'cnn_smal'; did you mean 'cnn_small'")
    assert message.endswith("(bench list models)")
    message = refusal(defenses, "advtrian:lam=1", UnknownName)
    assert message.startswith("no defense 'advtrian'; did you mean 'advtrain'")
    assert message.endswith("? (bench list defenses)")


def test_a_name_that_is_near_none_is_refused_with_all_known_ones():
    message = refusal(models, "xyzzy", UnknownName)
    assert message.startswith("no model 'xyzzy'; known: logreg, mlp, mlp_relu, cnn_small, ")


def test_an_unknown_key_is_refused_with_the_nearest_known_ones():
    message = refusal(models, "cnn_small:epoch=3", UnknownName)
    expected = "no key of model 'cnn_small' named 'epoch'; did you mean 'epochs'?"
    assert message == f"{expected} (bench show cnn_small)"
    message = refusal(defenses, "none:lam=1", UnknownName)
    assert message == "defense 'none' takes no keys, got 'lam'"


def test_a_class_variable_is_no_key():
    assert "named 'norms'" in refusal(toys, "toy:norms=l2", UnknownName)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy:count=1.5", "toy: count must be int, got '1.5'"),
        ("toy:count=none", "toy: count must be int, got 'none'"),
        ("toy:share=big", "toy: share must be float, got 'big'"),
        ("toy:share=1/0", "toy: share must be float, got '1/0'"),
        ("toy:share=1e400", "toy: share must be float, got '1e400'"),
        ("toy:bold=1", "toy: bold must be true or false, got '1'"),
        ("toy:shade=grey", "toy: shade must be one of light, dark, got 'grey'"),
        ("toy:most=many", "toy: most must be int or none, got 'many'"),
        ("toy:count=-1", "toy: count must be at least 0, got -1"),
        ("demanding:size=1", "demanding needs path="),
        ("demanding", "demanding needs path=, size="),
    ],
)
def test_a_bad_value_is_refused_with_name_rule_and_value(text, message):
    assert refusal(toys, text) == message


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("cnn_small:epochs=0", "cnn_small: epochs must be at least 1, got 0"),
        ("cnn_small:batch=0", "cnn_small: batch must be at least 1, got 0"),
        ("cnn_small:lr=0", "cnn_small: lr must be above 0, got 0.0"),
        ("cnn_small:lr=nan", "cnn_small: lr must be above 0, got nan"),
        ("cnn_small:lr=inf", "cnn_small: lr must be above 0, got inf"),
        ("cnn_small:seed=-1", "cnn_small: seed must be from 0 to 2**64 - 1, got -1"),
        (f"mlp:seed={2**64}", f"mlp: seed must be from 0 to 2**64 - 1, got {2**64}"),
        ("logreg:weights=no/such.pt", "logreg: weights must be a file, got no/such.pt"),
    ],
)
def test_a_model_out_of_range_is_refused(text, rule):
    assert refusal(models, text) == rule


def test_errors_inside_a_nested_spec_name_the_nested_spec():
    message = refusal(defenses, "advtrain:attack=[pdg:steps=3]", UnknownName)
    assert message.startswith("no attack 'pdg'; did you mean 'pgd'")
    message = refusal(defenses, "advtrain:attack=[pgd:step=3]", UnknownName)
    assert message.startswith("no key of attack 'pgd' named 'step'; did you mean 'steps'")
    assert refusal(defenses, "advtrain:attack=[pgd:steps=0]").startswith("pgd: steps must be")


def test_a_table_without_a_loader_refuses_names_from_outside():
    message = refusal(toys, "file.py:Thing", UnknownName)
    assert message == "a toy is one of toy, demanding, keyless, got 'file.py:Thing'"


def test_an_option_without_its_key_is_no_name_from_outside():
    assert refusal(models, "cnn_small:3") == "an option is KEY=VALUE, got '3' in 'cnn_small:3'"


def test_showing_an_unknown_name_is_refused_like_using_it():
    for name in ("tyo", "file.py:Thing"):
        with pytest.raises(UnknownName, match="toy"):
            toys.describe_class(name)


def test_a_check_refuses_names_without_importing_what_they_stand_for():
    table = Registry("toy", {"absent": "no_such_package.module:Class"})
    assert table.check("absent:anything=1").name == "absent"
    with pytest.raises(UnknownName, match="no toy 'present'; did you mean 'absent'"):
        table.check("present")


def test_names_of_installed_plugins_join_the_table(monkeypatch):
    entry = importlib.metadata.EntryPoint("added", f"{__name__}:Keyless", "bench.toys")
    hidden = importlib.metadata.EntryPoint("toy", f"{__name__}:Demanding", "bench.toys")

    def entry_points(*, group):
        return [entry, hidden] if group == "bench.toys" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    table = Registry("toy", {"toy": f"{__name__}:Toy"})
    assert table.names() == ["toy", "added"]
    assert table.get("added") == Keyless()
    assert table.get("toy") == Toy(), "a plug-in cannot take the place of a built-in name"
    assert table.describe(Keyless()) == "added"


# --- describe and identity -----------------------------------------------------------------------

counts = st.integers(0, 10**6)
floats = st.floats(min_value=0, allow_nan=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
letters = st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="[]")
notes = st.one_of(
    st.text(letters),
    st.builds("{}[{}]{}".format, st.text(letters), st.text(letters), st.text(letters)),
)
pgds = st.one_of(
    st.builds(
        Pgd,
        steps=st.integers(1, 99),
        alpha=st.none() | positive,
        loss=st.sampled_from(list(LOSSES.values())),
    ),
    st.builds(Pgd, restarts=st.integers(1, 9), target=st.sampled_from(["none", "next", "random"])),
    st.builds(Pgd, random=st.booleans()),
)
toy_recipes = st.builds(
    Toy,
    count=counts,
    share=floats,
    bold=st.booleans(),
    note=notes,
    shade=st.sampled_from(["light", "dark"]),
    most=st.none() | counts,
    least=st.none() | floats,
    inner=pgds,
)
model_recipes = st.builds(
    CnnSmall,
    seed=st.integers(0, 2**64 - 1),
    epochs=st.none() | st.integers(1, 99),
    batch=st.none() | st.integers(1, 999),
    lr=positive,
)
fgsms = st.builds(Fgsm, random=st.floats(0, 1, exclude_max=True))
bims = st.builds(Bim, steps=st.none() | st.integers(1, 99), alpha=positive)
defense_recipes = st.builds(
    AdversarialTraining,
    lam=floats,
    eps=st.none() | st.floats(0, 1, exclude_min=True),
    norm=st.sampled_from([None, "linf"]),
    attack=st.one_of(pgds, fgsms, bims),
    warmup=st.floats(0, 1, exclude_max=True),
    seed=st.integers(),
)


@given(toy_recipes)
def test_describing_a_recipe_and_reading_it_gives_it_again(recipe):
    assert toys.get(toys.describe(recipe)) == recipe


@given(model_recipes)
def test_describing_a_model_and_reading_it_gives_it_again(recipe):
    assert models.get(recipe.to_spec()) == recipe


@given(defense_recipes)
def test_describing_a_defense_and_reading_it_gives_it_again(recipe):
    text = recipe.to_spec()
    assert defenses.get(text) == recipe
    assert defenses.get(text).to_spec() == text


@given(toy_recipes)
def test_a_description_names_exactly_the_keys_that_differ_from_their_defaults(recipe):
    spec = parse(toys.describe(recipe))
    differing = [f.name for f in fields(Toy) if getattr(recipe, f.name) != getattr(Toy(), f.name)]
    assert [key for key, _ in spec.options] == differing


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (CnnSmall(), "cnn_small"),
        (CnnSmall(seed=3, lr=0.1), "cnn_small:seed=3,lr=0.1"),
        (AdversarialTraining(), "advtrain"),
        (
            AdversarialTraining(lam=math.inf, eps=8 / 255),
            "advtrain:lam=inf,eps=0.03137254901960784",
        ),
        (AdversarialTraining(attack=Fgsm()), "advtrain:attack=fgsm"),
        (
            AdversarialTraining(attack=Pgd(steps=9, random=False)),
            "advtrain:attack=[pgd:steps=9,random=false]",
        ),
    ],
)
def test_descriptions(recipe, text):
    assert recipe.to_spec() == text


@given(toy_recipes, toy_recipes)
def test_recipes_are_one_for_a_digest_exactly_if_they_are_equal(one, other):
    same = canonical(toys.identity(one)) == canonical(toys.identity(other))
    assert same == (one == other)


@pytest.mark.parametrize("name", [f.name for f in fields(AdversarialTraining)])
def test_every_field_is_part_of_the_identity(name):
    changed = {
        "lam": 2.0,
        "eps": 0.3,
        "norm": "l2",
        "attack": Pgd(steps=99),
        "warmup": 0.1,
        "seed": 1,
    }
    plain, other = AdversarialTraining(), AdversarialTraining(**{name: changed[name]})
    assert set(plain.identity()["fields"]) == set(changed)
    assert plain.identity() != other.identity()


def test_the_revision_is_part_of_the_identity(monkeypatch):
    outer, before = AdversarialTraining(), AdversarialTraining().identity()
    monkeypatch.setattr(AdversarialTraining, "revision", 77)
    assert outer.identity() == before | {"revision": 77}
    monkeypatch.undo()
    monkeypatch.setattr(Pgd, "revision", 78)
    assert outer.identity()["fields"]["attack"]["revision"] == 78
    assert outer.identity() != before


def test_the_class_is_part_of_the_identity():
    assert CnnSmall().identity() != Logreg().identity()
    assert CnnSmall().identity()["name"] == "cnn_small"


def test_a_weights_file_is_known_by_its_content_and_not_by_its_name(tmp_path):
    places = [tmp_path / name for name in ("one.pt", "two.pt", "other.pt")]
    for place, content in zip(places, (b"same", b"same", b"else"), strict=True):
        place.write_bytes(content)
    one, two, other = (CnnSmall(weights=str(place)) for place in places)
    assert one.identity() == two.identity()
    assert one.identity() != other.identity()
    assert one.identity() != CnnSmall().identity()
    assert str(tmp_path) not in canonical(one.identity())
    assert one.to_spec() == "cnn_small:weights=one"
    places[0].write_bytes(b"else")
    assert one.identity() == other.identity()


def test_canonical_text_does_not_depend_on_order_and_is_plain_json():
    text = canonical({"b": [1, 2.5, None], "a": {"d": True, "c": "é"}})
    assert text == canonical({"a": {"c": "é", "d": True}, "b": [1, 2.5, None]})
    assert text.isascii()
    assert json.loads(text) == {"a": {"c": "é", "d": True}, "b": [1, 2.5, None]}


def test_what_show_prints_comes_from_the_class():
    shown = toys.describe_class("toy")
    assert shown.summary == "A recipe with every type of key."
    assert shown.paper == "Nobody et al. 1999, arXiv:9901.00001"
    assert (shown.kind, shown.sort) == ("toy", "minimal")
    assert (shown.norms, shown.access) == (("linf",), "labels")
    assert toys.describe_class("keyless").sort == ""
    assert {name: (kind, default) for name, kind, default in shown.keys} == {
        "count": ("int", "3"),
        "share": ("float", "0.5"),
        "bold": ("bool", "false"),
        "note": ("str", "plain"),
        "shade": ("light|dark", "light"),
        "most": ("int or none", "none"),
        "least": ("float or none", "0.25"),
        "inner": ("spec", "[pgd:steps=2]"),
    }
    keys = {name: default for name, _, default in toys.describe_class("demanding").keys}
    assert keys == {"path": "required", "size": "required", "weights": "none", "colour": "red"}


@pytest.mark.parametrize("table", [models, attacks, defenses], ids=lambda table: table.kind)
def test_every_entry_of_a_table_says_what_it_is(table):
    for name in table.table:
        shown = table.describe_class(name)
        assert shown.summary
        assert "\n" not in shown.summary
        assert table.get(name).to_spec() == name


def test_tables_are_read_without_torch():
    code = """
import sys
import attacks, defenses, models
from attacks.registry import attacks
from defenses.registry import defenses
from models.grammar import UnknownName
from models.registry import models
for table in (models, attacks, defenses):
    for name in table.names():
        table.check(name + ":key=1")
    table.check("file.py:Thing:key=1")
    try:
        table.check("nothing")
    except UnknownName:
        pass
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_module_that_tests_register_is_the_one_that_was_imported():
    assert toys.load("toy") is Toy
    assert registry.models is models


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cnn", "cnn"),
        ("cnn:seed=1", "cnn"),
        ("cnn:epochs=2,seed=1", "cnn:epochs=2"),
        ("cnn: seed = 1,epochs=2", "cnn:epochs=2"),
        ("d:attack=[pgd:steps=2,seed=3],seed=1,lam=inf", "d:attack=[pgd:steps=2,seed=3],lam=inf"),
        ("d:sources=[[cnn:seed=1]+mlp]", "d:sources=[[cnn:seed=1]+mlp]"),
        ("net.py:make:seed=1", "net.py:make"),
        ("cnn:unseed=1", "cnn:unseed=1"),
    ],
)
def test_an_option_is_left_out_of_the_outermost_spec(text: str, left: str) -> None:
    assert without(text, "seed") == left
