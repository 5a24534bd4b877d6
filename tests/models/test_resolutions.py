"""Recipes that work at several resolutions, from specs to trained generators."""

from dataclasses import replace

import pytest
import torch

from models.checkpoint import Cache
from models.games import Clipped, Wasserstein
from models.growing import Discriminator, GrowingDiscriminator
from models.registry import generators as table
from models.resolutions import Progressive, Style
from models.split import Split
from models.studio import Studio

SHAPE = (1, 8, 8)
TRAIN = Split(
    torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(9)), torch.arange(20) % 3
)
TINY = {kind: kind(latent=6, width=2, updates=6, batch=4) for kind in (Progressive, Style)}


@pytest.fixture
def studio(tmp_path):
    return Studio(
        train=TRAIN,
        shape=SHAPE,
        fingerprint="f",
        device=torch.device("cpu"),
        numerics={"threads": 1},
        cache=Cache(tmp_path / "cache"),
    )


def test_recipes_are_in_the_table():
    for text, kind in (("progressive", Progressive), ("style:width=4,base=2", Style)):
        recipe = table.get(text)
        assert type(recipe) is kind
        assert recipe.to_spec() == text
    shown = table.describe_class("progressive")
    for key, _, _ in shown.keys:
        assert f"{key}:" in shown.text


@pytest.mark.parametrize("kind", TINY)
def test_defaults_are_for_a_slow_machine(kind):
    assert kind().settings(SHAPE).updates == 600
    assert kind().settings((1, 28, 28)).updates == 3000
    assert kind(updates=7).settings((1, 28, 28)).updates == 7
    assert type(kind().opponent(SHAPE)) is (
        GrowingDiscriminator if kind is Progressive else Discriminator
    )


@pytest.mark.parametrize("kind", TINY)
def test_weights_of_variance_1_are_clipped_to_1(kind):
    assert kind(objective="wasserstein_clip").game == Clipped(1.0)
    assert kind(objective="wasserstein_clip", penalty=0.5).game == Clipped(0.5)
    assert kind().game == Wasserstein(10.0)


@pytest.mark.parametrize("name", ["progressive", "style"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("width=0", "width must be at least 1, got 0"),
        ("base=0", "base must be at least 1, got 0"),
        ("latent=0", "latent must be at least 1, got 0"),
    ],
)
def test_bad_keys_are_refused(name, keys, message):
    with pytest.raises(ValueError, match=f"^{name}: {message}$"):
        table.get(f"{name}:{keys}")


@pytest.mark.parametrize("kind", TINY)
def test_a_base_that_the_images_are_no_power_of_two_times_is_refused(kind):
    with pytest.raises(ValueError, match="28x28 is no power of two times the base 5"):
        kind(base=5).build((1, 28, 28))


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("shape", [SHAPE, (1, 28, 28), (3, 32, 32)])
def test_defaults_fit_in_3_megabytes(kind, shape):
    made = kind().build(shape)
    assert made.sample(3, 0).shape == (3, *shape)
    assert sum(p.numel() * p.element_size() for p in made.parameters()) <= 3 * 10**6


@pytest.mark.parametrize("kind", TINY)
def test_whatever_changes_the_weights_is_in_the_identity(kind):
    kept = TINY[kind].made_of(SHAPE, "f")
    for name, value in {"width": 3, "base": 8, "latent": 7}.items():
        assert replace(TINY[kind], **{name: value}).made_of(SHAPE, "f") != kept


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("objective", ["wasserstein", "nonsaturating"])
def test_a_generator_from_the_cache_makes_the_images_of_the_trained_one(studio, kind, objective):
    recipe = replace(TINY[kind], objective=objective, pack=2)
    trained, cached = studio.ready(recipe), studio.ready(recipe)
    assert (trained.source, cached.source) == ("trained", "cached")
    assert trained.digest == cached.digest != studio.ready(replace(recipe, updates=0)).digest
    assert torch.equal(trained.generator.sample(5, 0), cached.generator.sample(5, 0))


def test_pictures_grow_while_they_are_trained(studio):
    ready = studio.ready(TINY[Progressive])
    # Two updates at the first of two levels, one at alpha = 1/3, and three at full size.
    for update, page in ready.album.items():
        squares = page.view(-1, 4, 2, 4, 2)
        is_coarse = bool((squares.amax((2, 4)) == squares.amin((2, 4))).all())
        assert is_coarse == (update <= 2), update
    net = ready.generator.net
    assert (net.level, net.alpha) == (1, 1.0)


def test_an_interrupted_training_goes_on_at_the_level_it_was_at(studio):
    whole = replace(studio, cache=None).ready(TINY[Progressive])

    def stop(text):
        if "update 4/6:" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(studio, say=stop).ready(TINY[Progressive])
    assert studio.ready(TINY[Progressive]).digest == whole.digest


def test_training_alone_tracks_the_mean_style(studio):
    assert not studio.ready(replace(TINY[Style], updates=0)).generator.net.w_avg.any()
    made = studio.ready(TINY[Style]).generator
    mean = made.net.w_avg.clone()
    assert bool((mean != 0).all())
    made.sample(5, 0)
    assert torch.equal(made.net.w_avg, mean)
