"""Things of the user's own: found, loaded apart from this package's names, refused by name."""

import dataclasses
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch
from torch import nn

import attacks.base
import defenses.base
import models
import models.nets
from attacks.pgd import Pgd
from attacks.registry import attacks as attack_table
from attacks.threat import ThreatModel
from defenses.registry import defenses as defense_table
from models import isolation
from models.grammar import UnknownName
from models.registry import canonical
from models.registry import models as model_table
from models.seeding import seeded

SHAPE, CLASSES = (1, 2, 2), 3
OURS = {
    name: module
    for name, module in sys.modules.items()
    if name.partition(".")[0] in ("models", "attacks", "defenses", "bench")
}
NET = """
    import torch
    from torch import nn

    def make(width: int = 2, scale: float = 1.0, bold: bool = False, note: str = "plain"):
        "A net with a hidden layer."
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
        net.facts = (width, scale, bold, note)
        return net
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def load(path, attribute="make", **keys):
    tail = ",".join(f"{key}={value}" for key, value in keys.items())
    return model_table.get(f"{path}:{attribute}" + (f":{tail}" if tail else ""))


def build(path, attribute="make", **keys):
    return load(path, attribute, **keys).build(SHAPE, CLASSES)


def refusal(table, text):
    """The one line that a spec is refused with."""
    with pytest.raises(UnknownName) as caught:
        table.get(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _ours_come_back():
    """Whatever a user's file does, our modules and the search path are as before."""
    path = list(sys.path)
    yield
    assert sys.path == path
    for name, module in OURS.items():
        assert sys.modules[name] is module
    assert sys.modules["models"] is models


# --- factories -----------------------------------------------------------------------------------


def test_a_factory_is_called_with_the_keys_of_the_spec(tmp_path):
    path = write(tmp_path / "net.py", NET)
    assert build(path).facts == (2, 1.0, False, "plain")
    net = build(path, width=5, scale="1/4", bold="true", note="loud")
    assert net.facts == (5, 0.25, True, "loud")
    assert net(torch.zeros(7, *SHAPE)).shape == (7, CLASSES)
    assert not net.training


def test_a_factory_is_built_under_the_seed_of_the_spec(tmp_path):
    path = write(tmp_path / "net.py", NET)
    one, same, other = (build(path, seed=seed)[1].weight for seed in (4, 4, 5))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_model_of_a_factory_is_evaluated_as_returned(tmp_path):
    recipe = load(write(tmp_path / "net.py", NET))
    assert recipe.is_trained
    assert recipe.to_spec() == "net:make"
    assert (
        load(tmp_path / "net.py", width=3, note="[a,b]").to_spec() == "net:make:width=3,note=[a,b]"
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_loaded_into_what_the_factory_returns(tmp_path, suffix):
    path = write(tmp_path / "net.py", NET)
    source, file = build(path, seed=1), tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(source.state_dict(), file)
    else:
        safetensors.torch.save_file(source.state_dict(), file)
    net = build(path, weights=file, seed=2)
    assert torch.equal(net[1].weight, source[1].weight)
    with pytest.raises(ValueError, match=r"weights .* do not load into .*size mismatch"):
        build(path, weights=file, width=9)


def test_a_class_is_a_factory_too(tmp_path):
    path = write(
        tmp_path / "net.py",
        """
        from __future__ import annotations
        from torch import nn

        class Net(nn.Sequential):
            "A linear net."
            def __init__(self, outputs: int, bias: bool = True):
                super().__init__(nn.Flatten(), nn.Linear(4, outputs, bias=bias))
        """,
    )
    net = build(path, "Net", outputs=3, bias="false")
    assert net[1].bias is None
    assert net[1].out_features == 3
    with pytest.raises(ValueError, match="needs outputs="):
        load(path, "Net")
    shown = model_table.describe_class(f"{path}:Net")
    assert shown.summary == "A linear net."
    assert ("outputs", "int", "required") in shown.keys
    assert ("bias", "bool", "true") in shown.keys


def test_types_of_keys_come_from_annotations_else_from_defaults(tmp_path):
    path = write(
        tmp_path / "net.py",
        """
        from typing import Optional
        from torch import nn

        def make(a, b: "int", c=2, d=0.5, e=True, f=None, g: int | None = None,
                 h: Optional[float] = None, i: list = (1, 2), act=nn.ReLU, **rest):
            net = nn.Flatten()
            net.facts = (a, b, c, d, e, f, g, h, i, act, rest)
            return net
        """,
    )
    assert build(path, a="x", b=1).facts == (
        "x",
        1,
        2,
        0.5,
        True,
        None,
        None,
        None,
        (1, 2),
        nn.ReLU,
        {},
    )
    given = {"a": "1", "b": 2, "c": 3, "d": "1/2", "e": "false", "f": "y", "g": 4, "h": 5}
    assert build(path, **given).facts == ("1", 2, 3, 0.5, False, "y", 4, 5.0, (1, 2), nn.ReLU, {})
    for name in ("i", "act", "rest"):
        assert f"named {name!r}" in refusal(model_table, f"{path}:make:a=x,b=1,{name}=3")
    identity = load(path, a="x", b=1).identity()
    assert canonical(identity), "what is no key is part of the source"
    assert not {"i", "act", "rest"} & set(identity["fields"])


def test_annotations_that_only_a_type_checker_can_read_do_not_matter(tmp_path):
    path = write(
        tmp_path / "net.py",
        """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        from torch import nn
        if TYPE_CHECKING:
            from no_such_package import Something

        def make(width=2, other: Something | None = None) -> nn.Module:
            net = nn.Flatten()
            net.facts = (width, other)
            return net
        """,
    )
    assert build(path, width=3).facts == (3, None)


def test_a_factory_keeps_its_own_defaults_for_the_keys_that_every_model_has(tmp_path):
    path = write(
        tmp_path / "net.py",
        """
        from torch import nn

        def make(seed=7, lr=0.5, batch=3, epochs=9, weights="pretrained"):
            net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
            net.facts = (seed, lr, batch, epochs, weights)
            return net
        """,
    )
    file = tmp_path / "w.pt"
    torch.save(build(path).state_dict(), file)
    assert build(path).facts == (7, 0.5, 3, 9, "pretrained")
    assert build(path, seed=1, lr=0.1, weights=file).facts == (1, 0.1, 3, 9, "pretrained")


def test_a_factory_that_asks_for_weights_is_given_the_file(tmp_path):
    path = write(
        tmp_path / "net.py",
        """
        from torch import nn

        def make(weights):
            net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
            net.facts = weights
            return net
        """,
    )
    file = tmp_path / "w.pt"
    torch.save({}, file)
    with pytest.raises(ValueError, match="do not load"):
        build(path, weights=file)
    assert build(path, weights="none").facts is None


# --- refusals ------------------------------------------------------------------------------------


def test_a_missing_file_or_attribute_is_named(tmp_path):
    path = write(tmp_path / "net.py", NET)
    missing = tmp_path / "no.py"
    assert refusal(model_table, f"{missing}:make") == f"no file {str(missing)!r}"
    message = refusal(model_table, f"{path}:mke")
    assert message.startswith(f"no attribute of {path} named 'mke'; did you mean 'make'?")
    message = refusal(model_table, f"{path}:make:widht=3")
    assert "named 'widht'; did you mean 'width'" in message
    message = refusal(model_table, "no_such_package.nets:make")
    assert message == (
        "module 'no_such_package.nets' cannot be imported: No module named 'no_such_package'"
    )


def test_what_is_no_factory_is_named(tmp_path):
    path = write(
        tmp_path / "net.py",
        """
        from torch import nn
        number = 3
        net = nn.Flatten()
        def make():
            return "a net"
        """,
    )
    rule = "must be a factory of a torch.nn.Module, got a"
    assert refusal(model_table, f"{path}:number") == f"{path}:number {rule} int object"
    assert refusal(model_table, f"{path}:net") == f"{path}:net {rule} Flatten object"
    with pytest.raises(TypeError, match=r"make must return a torch\.nn\.Module, got str"):
        build(path)


def test_a_value_of_the_wrong_type_is_named(tmp_path):
    path = write(tmp_path / "net.py", NET)
    with pytest.raises(ValueError, match="width must be int, got 'wide'"):
        load(path, width="wide")
    with pytest.raises(ValueError, match=r"weights must be a file, got absent\.pt"):
        load(path, weights="absent.pt")


# --- isolation -----------------------------------------------------------------------------------

OWN_BLOCKS = """
    from torch import nn

    class Block(nn.Sequential):
        mark = {mark!r}
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(4, 3))
"""
EAGER = """
    from models.blocks import Block

    def make():
        return Block()
"""
LAZY = """
    def make():
        from models.blocks import Block
        import models
        net = Block()
        net.package = models.__file__
        return net
"""


def project(folder, text, *, mark="own", package=True):
    """A file beside a models/ folder of its own."""
    write(folder / "models" / "blocks.py", OWN_BLOCKS.format(mark=mark))
    if package:
        write(folder / "models" / "__init__.py", "")
    return write(folder / "net.py", text)


@pytest.mark.parametrize("package", [True, False], ids=["package", "namespace"])
def test_a_file_gets_its_own_models_and_ours_come_back(tmp_path, package):
    net = build(project(tmp_path, EAGER, package=package))
    assert net.mark == "own"
    assert "models.blocks" not in sys.modules
    assert sys.modules["models.nets"] is models.nets


def test_a_factory_that_imports_when_called_gets_its_own_models(tmp_path):
    net = build(project(tmp_path, LAZY))
    assert net.mark == "own"
    assert net.package == str(tmp_path / "models" / "__init__.py")
    assert "models.blocks" not in sys.modules


def test_a_module_file_of_our_name_is_its_own_too(tmp_path):
    write(tmp_path / "models.py", OWN_BLOCKS.format(mark="a file"))
    path = write(tmp_path / "net.py", "from models import Block as make\n")
    assert build(path).mark == "a file"


def test_top_level_and_late_imports_give_the_same_class(tmp_path):
    path = project(
        tmp_path,
        """
        from models.blocks import Block

        def make():
            from models import blocks
            net = Block()
            net.same = blocks.Block is Block
            return net
        """,
    )
    recipe = load(path)
    assert recipe.build(SHAPE, CLASSES).same
    assert recipe.build(SHAPE, CLASSES).same, "the second time as well"


def test_two_projects_get_their_own_each(tmp_path):
    for text in (EAGER, LAZY):
        one = load(project(tmp_path / "one", text, mark="one"))
        two = load(project(tmp_path / "two", text, mark="two"))
        made = [recipe.build(SHAPE, CLASSES).mark for recipe in (one, two, one)]
        assert made == ["one", "two", "one"]


def test_two_files_with_helpers_of_one_name_get_their_own_each(tmp_path):
    text = """
        import blocks_of_a_test
        def make():
            import blocks_of_a_test as late
            net = blocks_of_a_test.Block()
            net.late = late.Block.mark
            return net
    """
    recipes = []
    for mark in ("one", "two"):
        write(tmp_path / mark / "blocks_of_a_test.py", OWN_BLOCKS.format(mark=mark))
        recipes.append(load(write(tmp_path / mark / "net.py", text)))
    nets = [recipe.build(SHAPE, CLASSES) for recipe in (*recipes, recipes[0])]
    assert [(net.mark, net.late) for net in nets] == [
        ("one", "one"),
        ("two", "two"),
        ("one", "one"),
    ]


def test_the_working_directory_may_hold_the_own_models(tmp_path, monkeypatch):
    write(tmp_path / "models" / "blocks.py", OWN_BLOCKS.format(mark="own"))
    path = write(tmp_path / "scripts" / "net.py", EAGER)
    monkeypatch.chdir(tmp_path)
    assert build(path).mark == "own"
    assert build("scripts/net.py").mark == "own"


def test_without_own_models_the_error_names_the_import_and_says_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "net.py", EAGER)
    message = refusal(model_table, f"{path}:make")
    assert message == (
        "net.py cannot be imported: No module named 'models.blocks'; 'models' is this package's "
        "own: put net.py beside your models/ or start bench in the folder that holds it"
    )
    recipe = load(write(tmp_path / "net.py", LAZY))
    with pytest.raises(UnknownName, match=r"No module named 'models\.blocks'; 'models' is this"):
        recipe.build(SHAPE, CLASSES)


@pytest.mark.parametrize(
    "line", ["from models import ResNet18", "from models.nets import ResNet18"]
)
def test_a_name_that_our_module_lacks_is_an_import_error_that_says_how(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "net.py", line)
    message = refusal(model_table, f"{path}:ResNet18")
    assert message.startswith("net.py cannot be imported: cannot import name 'ResNet18' from 'mo")
    assert message.endswith(
        "put net.py beside your models/ or start bench in the folder that holds it"
    )


def test_own_models_that_hide_what_is_wanted_of_ours_are_named(tmp_path):
    path = project(tmp_path, "from models.recipes import CnnSmall\n")
    message = refusal(model_table, f"{path}:make")
    assert message == (
        "net.py cannot be imported: No module named 'models.recipes'; the 'models' beside it or in "
        "the working directory hides this package's own"
    )


def test_other_missing_imports_are_named_without_advice(tmp_path):
    path = write(tmp_path / "net.py", "import no_such_package\n")
    assert refusal(model_table, f"{path}:make") == (
        "net.py cannot be imported: No module named 'no_such_package'"
    )
    path = write(tmp_path / "net.py", "from .blocks import Block\n")
    assert "relative import" in refusal(model_table, f"{path}:make")


def test_an_error_of_the_users_code_is_not_dressed_up(tmp_path):
    path = project(tmp_path, "from models import blocks\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        model_table.get(f"{path}:make")
    path = project(tmp_path, "def make():\n    from models import blocks\n    1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        build(path)


def test_a_package_is_imported_as_every_other(tmp_path, monkeypatch):
    write(tmp_path / "package_of_a_test" / "__init__.py", "")
    write(tmp_path / "package_of_a_test" / "models" / "__init__.py", "")
    write(
        tmp_path / "package_of_a_test" / "nets.py",
        """
        from package_of_a_test import models
        import models as ours
        from torch import nn
        def make():
            import models as late
            net = nn.Flatten()
            net.facts = (models.__name__, ours, late)
            return net
        """,
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    net = build("package_of_a_test.nets")
    assert net.facts == ("package_of_a_test.models", models, models)
    assert load("package_of_a_test.nets").to_spec() == "nets:make"
    message = refusal(model_table, "package_of_a_test.nets:mak")
    assert "did you mean 'make'" in message


# --- identity ------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path):
    one, two = (write(tmp_path / name / "net.py", NET) for name in ("one", "two"))
    assert load(one).identity() == load(two).identity()
    assert str(tmp_path) not in canonical(load(one).identity())
    write(two, NET.replace("nn.ReLU()", "nn.Tanh()"))
    assert load(one).identity() != load(two).identity()
    assert load(one).identity() != load(one, width=3).identity()


def test_own_modules_that_a_file_imports_are_part_of_its_identity(tmp_path):
    path = project(tmp_path, EAGER, mark="before")
    before = load(path).identity()
    assert load(path).identity() == before, "the second time as well"
    project(tmp_path, EAGER, mark="after!")
    assert load(path).identity() != before
    write(tmp_path / "models" / "unrelated.py", "")
    project(tmp_path, EAGER, mark="before")
    assert load(path).identity() == before


def test_attributes_of_one_file_differ(tmp_path):
    path = write(tmp_path / "net.py", NET + "\n    other = lambda: nn.Flatten()\n")
    assert load(path).identity() != load(path, "other").identity()


# --- attacks and defenses ------------------------------------------------------------------------

ATTACK = """
    from __future__ import annotations

    from dataclasses import dataclass
    from typing import ClassVar

    import torch

    from attacks.ascent import Ascent, AscentAttack, fixed
    from attacks.losses import CROSS_ENTROPY

    @dataclass(frozen=True)
    class Mine(AscentAttack):
        "Half steps, my own (Me 2024)."
        norms: ClassVar[tuple[str, ...]] = ("linf",)
        steps: int = 3
        share: float = 0.5

        def parts(self, norm: str) -> Ascent:
            return Ascent(CROSS_ENTROPY, fixed(self.steps), lambda radius: radius * self.share)
"""
DEFENSE = """
    from __future__ import annotations

    from dataclasses import dataclass

    from torch import Tensor

    from defenses.base import Defended, Defense, Workshop
    from defenses.none import NoDefense

    @dataclass(frozen=True)
    class Rounding(Defense):
        "Rounds pixels, my own (Me 2024)."
        levels: int = 8

        def deploy(self, workshop: Workshop) -> Defended:
            net = NoDefense().deploy(workshop).predict
            def predict(x: Tensor) -> Tensor:
                return net((x * self.levels).round() / self.levels)
            return Defended(predict=predict, surrogate=net)
"""


def linear():
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    return net.eval()


def test_an_attack_of_the_users_own_runs_as_every_other(tmp_path):
    path = write(tmp_path / "mine.py", ATTACK)
    attack = attack_table.get(f"{path}:Mine:steps=4,share=1/4")
    assert isinstance(attack, attacks.base.Attack)
    assert (attack.steps, attack.share) == (4, 0.25)
    assert attack.to_spec() == "mine:Mine:steps=4,share=0.25"
    # The difference of the two logits is x0 - x1; each step of eps / 4 takes eps / 2 off it.
    x = torch.tensor([0.7, 0.5, 0.5, 0.5]).view(1, 1, 2, 2)
    y = torch.tensor([0])
    for eps, fooled in ((0.09, False), (0.11, True)):
        x_adv = attack(linear(), x, y, ThreatModel("linf", eps))
        assert (linear()(x_adv).argmax(1) != y).item() is fooled
    with pytest.raises(ValueError, match=r"attack mine:Mine knows the norms linf, got l2"):
        attack(linear(), x, y, ThreatModel("l2", 0.1))


def test_an_attack_of_the_users_own_stands_inside_a_defense(tmp_path):
    path = write(tmp_path / "mine.py", ATTACK)
    defense = defense_table.get(f"advtrain:attack=[{path}:Mine:steps=2],eps=0.1")
    assert type(defense.attack).__name__ == "Mine"
    assert defense.attack.steps == 2
    assert defense.to_spec() == "advtrain:eps=0.1,attack=[mine:Mine:steps=2]"
    other = defense_table.get(f"advtrain:attack=[{path}:Mine:steps=3],eps=0.1")
    assert defense.identity() != other.identity()


def test_a_defense_of_the_users_own_is_a_recipe_as_every_other(tmp_path):
    path = write(tmp_path / "mine.py", DEFENSE)
    defense = defense_table.get(f"{path}:Rounding:levels=4")
    assert isinstance(defense, defenses.base.Defense)
    assert defense.to_spec() == "mine:Rounding:levels=4"
    assert defense.at("linf", 0.1) is defense
    assert defense.identity()["fields"] == {"levels": 4}
    write(path, DEFENSE.replace("round()", "floor()"))
    assert defense_table.get(f"{path}:Rounding:levels=4").identity() != defense.identity()


def test_what_is_no_recipe_is_named(tmp_path):
    path = write(
        tmp_path / "mine.py",
        """
        from dataclasses import dataclass
        from attacks.base import Attack
        from attacks.pgd import Pgd

        class Bare(Attack):
            steps: int = 3

        @dataclass(frozen=True)
        class Stranger:
            steps: int = 3

        def function(x):
            return x
        """,
    )
    rule = "must be a frozen dataclass and a subclass of attacks.base.Attack, got <"
    for name in ("Bare", "Stranger"):
        assert refusal(attack_table, f"{path}:{name}").startswith(f"{path}:{name} {rule}")
    rule = "must be a function (model, x, y, ...), got one of (x)"
    assert refusal(attack_table, f"{path}:function") == f"mine:function {rule}"
    message = refusal(defense_table, f"{path}:Pgd")
    assert "a subclass of defenses.base.Defense, got <class 'attacks.pgd.Pgd'>" in message
    assert refusal(attack_table, f"{path}:Pdg").startswith(f"no attribute of {path} named 'Pdg'")


def test_our_own_classes_keep_their_names(tmp_path):
    path = write(tmp_path / "mine.py", "from attacks.pgd import Pgd\n")
    before = Pgd(steps=3).identity()
    for text in (f"{path}:Pgd:steps=3", "attacks.pgd:Pgd:steps=3"):
        assert attack_table.get(text) == Pgd(steps=3)
        assert attack_table.get(text).to_spec() == "pgd:steps=3"
    assert Pgd(steps=3).identity() == before


def test_third_party_classes_are_not_marked():
    before = dict(vars(nn.Flatten))
    recipe = model_table.get("torch.nn:Flatten")
    assert isinstance(recipe.build(SHAPE, CLASSES), nn.Flatten)
    assert dict(vars(nn.Flatten)) == before


def test_own_models_and_our_base_classes_go_together(tmp_path):
    """In a fresh process, where our base classes are not imported yet when the file is."""
    write(tmp_path / "models" / "blocks.py", OWN_BLOCKS.format(mark="own"))
    start = "from __future__ import annotations\n"
    for name, text in (("attack.py", ATTACK), ("defense.py", DEFENSE)):
        own = textwrap.dedent(text).replace(start, f"{start}from models.blocks import Block\n")
        write(tmp_path / name, own)
    code = """
import sys
from attacks.registry import attacks
from defenses.registry import defenses
for table, name in ((attacks, "attack.py:Mine"), (defenses, "defense.py:Rounding")):
    recipe = table.get(sys.argv[1] + "/" + name)
    print(recipe.to_spec(), sys.modules[type(recipe).__module__].Block.mark)
import attacks.pgd, defenses.advtrain, models.recipes, models.registry
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = "attack:Mine own\ndefense:Rounding own\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_a_folder_of_weights_hides_nothing(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.pt").write_bytes(b"weights")
    path = write(tmp_path / "net.py", "from models.nets import logreg\n")
    assert load(path, "logreg", shape=1, classes=2).to_spec() == "net:logreg:shape=1,classes=2"


def test_isolation_ends_when_the_import_fails(tmp_path):
    path = project(tmp_path, "from models.blocks import Block\nimport no_such_package\n")
    refusal(model_table, f"{path}:make")
    assert "models.blocks" not in sys.modules


def test_isolated_hides_only_what_stands_there(tmp_path):
    write(tmp_path / "attacks" / "__init__.py", "mark = 1\n")
    with isolation.isolated(tmp_path, {}):
        import attacks as theirs
        import models as ours

        assert theirs.mark == 1
        assert ours is models
    assert dataclasses.is_dataclass(Pgd)
