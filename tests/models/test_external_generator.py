"""Generators of the user's own: a factory in a file."""

import textwrap
from dataclasses import replace

import pytest
import torch
from torch import nn

from models import checkpoint
from models.gans import Gan
from models.grammar import UnknownName
from models.registry import generators as table
from models.seeding import seeded
from models.studio import Studio

SHAPE = (1, 8, 8)
FACTORY = """
    import math
    from torch import nn

    def make(shape, latent, width: int = 4):
        "Two layers (Me 2024)."
        layers = [nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, math.prod(shape))]
        return nn.Sequential(*layers, nn.Sigmoid(), nn.Unflatten(1, shape))

    def fixed():
        return make((1, 8, 8), 64)

    def defaulted(latent=5):
        return make((1, 8, 8), latent)

    def logits(shape, latent):
        return nn.Sequential(nn.Linear(latent, math.prod(shape)), nn.Unflatten(1, shape))

    def strange():
        return 3

    class Late:
        def __new__(cls, latent):
            from late import head
            return head(latent)

    net = nn.Flatten()
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(FACTORY))
    return file


def studio(**changes):
    made = Studio(None, SHAPE, "f", torch.device("cpu"), {}, None)
    return replace(made, **changes)


def test_shape_and_latent_are_handed_to_a_factory_that_has_them(path):
    recipe = table.get(f"{path}:make:latent=7,width=3")
    made = recipe.build(SHAPE)
    assert (made.latent, made.shape) == (7, SHAPE)
    assert made.net[0].weight.shape == (3, 7)
    assert made.sample(2, 0).shape == (2, *SHAPE)
    assert recipe.build((3, 4, 4)).sample(2, 0).shape == (2, 3, 4, 4)
    assert recipe.to_spec() == "mine:make:latent=7,width=3"
    assert Gan.from_spec(f"{path}:make:latent=7,width=3").to_spec() == recipe.to_spec()
    with seeded(0):
        expected = nn.Linear(7, 3).weight
    assert torch.equal(made.net[0].weight, expected), "initialised under the seed"


def test_a_factory_without_them_decides_itself(path):
    assert table.get(f"{path}:fixed").build(SHAPE).latent == 64
    assert table.get(f"{path}:defaulted").build(SHAPE).latent == 5
    assert table.get(f"{path}:defaulted:latent=6").build(SHAPE).latent == 6
    with pytest.raises(ValueError, match="generator Sequential takes no latents of size 6"):
        table.get(f"{path}:fixed:latent=6").build(SHAPE)


def test_it_is_given_and_without_weights_nobody_trained_it(path, tmp_path):
    recipe = table.get(f"{path}:make:latent=7")
    assert recipe.is_given
    assert recipe.is_untrained
    assert studio().ready(recipe).source == "given"
    # The weights are those of the module that the factory returns.
    with seeded(1):
        other = recipe.net(SHAPE)
    file = tmp_path / "g.pt"
    torch.save(other.state_dict(), file)
    trained = table.get(f"{path}:make:latent=7,weights={file}")
    assert trained.is_given
    assert not trained.is_untrained
    ready = studio().ready(trained)
    z = ready.generator.latents(3, 0)
    assert torch.equal(ready.generator(z), other(z))
    assert ready.digest == checkpoint.digest(ready.generator.state_dict())
    with pytest.raises(
        ValueError, match=r"^weights g\.pt do not load into Sequential: "
    ) as refused:
        studio().ready(table.get(f"{path}:make:latent=8,weights={file}"))
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="plays against nothing"):
        trained.discriminator(SHAPE)


def test_it_is_known_by_its_source(path):
    recipe = table.get(f"{path}:make")
    path.write_text(path.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    assert table.get(f"{path}:make").identity() != recipe.identity()
    assert str(path) not in str(recipe.identity())


def test_modules_beside_the_file_are_found_when_the_factory_runs(path, tmp_path):
    (tmp_path / "late.py").write_text(
        "from torch import nn\n"
        "def head(latent):\n"
        "    return nn.Sequential(nn.Linear(latent, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))"
    )
    assert table.get(f"{path}:Late:latent=3").build(SHAPE).latent == 3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mak", UnknownName, "did you mean 'make'"),
        ("net", UnknownName, "must be a factory of a torch.nn.Module, got a Flatten object"),
        ("strange", TypeError, "strange must return a torch.nn.Module, got int"),
        ("logits", ValueError, "must make images in [0, 1], got ["),
        ("make:updates=3", ValueError, "updates is of training, and a generator of your own"),
        ("make:shape=3", ValueError, "named 'shape'"),
    ],
)
def test_what_is_no_generator_is_refused(path, name, error, message):
    with pytest.raises(error) as refused:
        table.get(f"{path}:{name}").build(SHAPE)
    assert message in str(refused.value)


def test_a_describe_of_it_says_what_it_is(path):
    described = table.describe_class(f"{path}:make")
    assert described.summary == "Two layers."
    keys = {name: default for name, _, default in described.keys}
    assert {"latent": "64", "width": "4", "weights": "none"}.items() <= keys.items()
