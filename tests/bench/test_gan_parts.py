"""The parts of `bench gan`, each on nets whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench import data
from bench.errors import RequestError
from bench.gan import growth, measuring, walking
from bench.gan.drawing import Sampler, truncated
from bench.gan.eye import Eye, Triples
from bench.gan.measuring import Real
from bench.gan.task import Settings, _check_stacked, _stacked, _usual
from models import stacked
from models.generators import Generator
from models.split import Split

CPU = torch.device("cpu")
SHAPE = (1, 2, 2)


def rand(*size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


class Brightest(nn.Module):
    """Of images with four pixels, the brightest is the class."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.layer.weight)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Pixels(nn.Module):
    """Latents as pixels around a half."""

    def forward(self, z):
        return z.view(-1, *SHAPE) + 0.5


EYE = Eye(Brightest().eval(), "brightest")


def generator(net=None, classes=0):
    return Generator(net or Pixels(), 4, "uniform", SHAPE, classes).eval()


def split(count, seed=0):
    x = rand(count, *SHAPE, seed=seed)
    return Split(x, EYE.labels(x))


# --- the classifier ------------------------------------------------------------------------------


def test_triples_are_those_of_each_channel_alone():
    x = rand(50, 3, 2, 2)
    eye = Eye.of(EYE.net, "brightest", is_stacked=True)
    assert eye.labels(x).equal(stacked.triples(EYE.net, x))
    each = EYE.net(x[:, :, None].flatten(0, 1)).softmax(1).view(50, 3, 4)
    joint = torch.einsum("na,nb,nc->nabc", *each.unbind(1)).flatten(1)
    torch.testing.assert_close(Triples(EYE.net)(x).exp(), joint)


def test_features_are_what_enters_the_last_layer():
    x = rand(50, 3, 2, 2)
    assert EYE.features(x[:, :1]).equal(x[:, :1].flatten(1))
    eye = Eye.of(EYE.net, "brightest", is_stacked=True)
    assert eye.features(x).equal(x.flatten(1))
    assert EYE.layer == "features of brightest, what enters its layer layer"
    assert eye.layer.endswith(", channel by channel")


def test_the_share_that_is_right():
    x = torch.eye(4).view(4, *SHAPE)
    assert EYE.right(x, torch.tensor([0, 1, 2, 0])) == 0.75


# --- samples -------------------------------------------------------------------------------------


def test_psi_pulls_every_sample_towards_the_mean():
    made = generator()
    plain = Sampler(made).images(300, 1)
    assert Sampler(made, 1.0).images(300, 1).equal(plain)
    torch.testing.assert_close(Sampler(made, 0.5).images(300, 1) - 0.5, (plain - 0.5) / 2)
    assert truncated(made, 300, 1.0, 1).equal(plain)
    assert (Sampler(made).text, Sampler(made, 0.5).text) == ("samples", "samples at psi = 0.5")


def test_a_generator_that_cannot_be_asked_shows_its_first_samples():
    drawn = Sampler(generator()).images(105, 1)
    rows = Sampler(generator()).rows(drawn, ())
    assert [text for text, _ in rows] == [""] * 10
    assert torch.cat([images for _, images in rows]).equal(drawn[:100])


def test_a_class_that_is_asked_for_has_a_row():
    sampler = Sampler(generator(classes=4))
    rows = sampler.rows(sampler.images(100, 1), (2, 0))
    assert [text for text, _ in rows] == ["2", "0"]
    assert [EYE.labels(images).tolist() for _, images in rows] == [[2] * 10, [0] * 10]
    assert [text for text, _ in sampler.rows(sampler.images(100, 1), ())] == ["0", "1", "2", "3"]


def test_psi_of_1_draws_all_latents():
    assert [Sampler(generator(), psi).is_whole for psi in (None, 1.0, 0.9)] == [True, True, False]


def test_how_often_the_class_asked_for_is_made():
    assert Sampler(generator(classes=4)).obeys(EYE) == (1.0, 400)

    class Swapped(Pixels):
        """Makes class 1 where class 0 is asked for, and the other way round."""

        def forward(self, z):
            return super().forward(z[:, [1, 0, 2, 3]])

    assert Sampler(generator(Swapped(), classes=4)).obeys(EYE) == (0.5, 400)


# --- what training showed ------------------------------------------------------------------------


def page(*labels):
    """Images of these classes, as an album holds them."""
    return (255 * torch.eye(4)[list(labels)]).to(torch.uint8).view(-1, *SHAPE)


def test_pages_are_looked_at_in_order():
    album = {20: page(*[0] * 60), 10: page(*[0, 1, 2, 3] * 15), 30: page(*[1] * 60)}
    past = growth.history(album, EYE, (1, 1, 1, 1), CPU)
    assert past.updates == (10, 20, 30)
    assert [look.counts for look in past.looks] == [(15,) * 4, (60, 0, 0, 0), (0, 60, 0, 0)]
    assert [look.seen.name for look in past.looks] == ["none", "collapse", "collapse"]
    assert past.images.shape[0] == 3
    assert np.array_equal(past.images[0, :4].reshape(4, 4), np.eye(4))
    final = growth.look(page(*[1] * 60).float(), EYE, (1, 1, 1, 1))
    names = [each.name for each in growth.failures(past, final, ignores_latent=True)]
    assert names == ["rotating collapse", growth.IGNORING, "rotating collapse"]


def test_without_an_album_there_is_no_history():
    assert growth.history({}, EYE, (1, 1, 1, 1), CPU) is None
    final = growth.look(page(*[0, 1, 2, 3] * 15).float(), EYE, (1, 1, 1, 1))
    assert growth.failures(None, final, ignores_latent=False) == ()


# --- real images ---------------------------------------------------------------------------------


def test_the_training_images_themselves_could_not_be_nearer():
    real = Real.of(split(200), EYE, 150, 4, CPU)
    assert len(real.x) == sum(real.counts) == 150
    found, ignores_latent = measuring.fidelities(real.x, real, EYE, "samples")
    values = {measure.name: measure.value for measure in found}
    assert values["FID"] == pytest.approx(0, abs=1e-9)
    assert (values["precision"], values["recall"]) == (1, 1)
    # There are 50 others: too few to say how near 150 could come.
    assert values["FID, of halves"] > 0
    fewer = Real.of(split(200), EYE, 100, 4, CPU)
    of_fewer, _ = measuring.fidelities(fewer.x, fewer, EYE, "samples")
    floor = next(measure for measure in of_fewer if measure.name == "FID, at best")
    assert floor.value > 0
    assert floor.of.startswith("100 training images and as many others")
    assert not ignores_latent
    assert found[0].of.startswith("150 samples and as many training images, features of brightest")


def test_one_image_for_every_latent_is_told():
    real = Real.of(split(200), EYE, 200, 4, CPU)
    found, ignores_latent = measuring.fidelities(real.x[:1].repeat(200, 1, 1, 1), real, EYE, "s")
    assert ignores_latent
    assert {measure.name: measure.value for measure in found}["recall"] <= 4 / 200


def test_no_truncation_is_the_same_of_both_kinds():
    real = Real.of(split(200), EYE, 200, 4, CPU)
    levels, found = measuring.truncations(generator(), real, EYE, 200)
    assert [each.kind for each in levels] == ["psi"] * 3 + ["tau"] * 3
    assert [each.level for each in levels[:3]] == [1, 0.7, 0.3]
    assert levels[0].precision == levels[3].precision
    assert levels[0].recall == levels[3].recall
    assert levels[2].recall < levels[0].recall
    assert [measure.of.split(";")[0] for measure in found[:3:2]] == ["psi = 1", "psi = 0.7"]
    kinds = [
        "psi = 1",
        "psi = 0.7",
        "psi = 0.3",
        "tau keeps 100 %",
        "tau keeps 50 %",
        "tau keeps 10 %",
    ]
    names = [f"{name}, {kind}" for kind in kinds for name in ("precision", "recall")]
    assert [measure.name for measure in found] == names


def test_copies_are_caught():
    train, test = split(300), split(200, seed=1)
    shown, found = measuring.memories(train.x[:250], train, test, "samples", lambda _: None)
    values = {measure.name: measure.value for measure in found}
    assert values["copies (%)"] == 100
    assert values["nearest training image, median"] == 0
    assert np.array_equal(shown.samples, shown.nearest)
    assert shown.samples.shape == (24, *SHAPE)
    _, found = measuring.memories(test.x, train, test, "samples", lambda _: None)
    assert {measure.name: measure.value for measure in found}["copies (%)"] == 1


def test_too_few_held_out_images_tell_no_copies():
    train, test = split(300), split(99, seed=1)
    _, found = measuring.memories(train.x[:250], train, test, "samples", lambda _: None)
    assert "copies (%)" not in {measure.name for measure in found}


# --- latents -------------------------------------------------------------------------------------


def test_ways_of_a_linear_generator_are_straight():
    ways, found = walking.walks(generator(), EYE)
    values = {measure.name: measure.value for measure in found}
    assert values["longest step, linear"] == pytest.approx(1, abs=1e-4)
    assert values["detour, linear"] == pytest.approx(1, abs=1e-4)
    assert values["detour, spherical"] > 1.01
    assert [way.kind for way in ways] == ["linear", "spherical"]
    ends = [way.images[:, [0, -1]] for way in ways]
    np.testing.assert_allclose(*ends, atol=1e-6)


def test_ways_of_a_generator_of_one_image_have_no_numbers():
    class Constant(Pixels):
        """The same image for every latent."""

        def forward(self, z):
            return super().forward(0 * z)

    ways, found = walking.walks(generator(Constant()), EYE)
    assert [way.text for way in ways] == ["no image changes"] * 2
    values = {measure.name: measure.value for measure in found}
    for kind in ("linear", "spherical"):
        assert values[f"longest step, {kind}"] is None
        assert values[f"detour, {kind}"] is None
        assert values[f"least confidence, {kind}"] > 0


def test_sums_of_latents_are_drawn_with_what_they_are_made_of():
    sums, found = walking.arithmetic(generator(), EYE)
    first, second, third, made = (sums.images[:, k] for k in range(4))
    np.testing.assert_allclose(first - second + third, made, atol=1e-6)
    assert sums.rows == ("0 to 1", "1 to 2", "2 to 3", "3 to 0")
    assert {measure.name for measure in found} == {
        "arithmetic: class kept (%)",
        "arithmetic: boldness gained, median (%)",
    }


# --- what is asked for ---------------------------------------------------------------------------


def settings(**changes):
    usual = {
        "generator": "dcgan",
        "others": None,
        "steps": 1,
        "restarts": 1,
        "labels": (),
        "psi": None,
        "samples": None,
        "stacked": False,
        "retrain": False,
    }
    return Settings(**(usual | changes))


@pytest.mark.parametrize(("images", "samples"), [(50, 100), (700, 700), (20_000, 10_000)])
def test_as_many_samples_as_training_images_within_limits(images, samples):
    train = Split(torch.zeros(images, *SHAPE), torch.zeros(images, dtype=torch.int64))
    assert _usual(train, settings()) == samples
    assert _usual(train, settings(stacked=True)) == 26_000


def test_images_of_several_channels_are_not_stacked():
    two = replace(data.load("digits", None), test=Split(torch.zeros(9, 2, 8, 8), torch.arange(9)))
    with pytest.raises(RequestError, match="of one channel, and those of digits have 2"):
        _check_stacked(two, settings(stacked=True))
    _check_stacked(two, settings())


def test_stacked_digits_are_a_dataset_of_triples():
    made = _stacked(data.load("digits", None))
    assert (made.name, made.shape, made.classes) == ("stacked_digits", (3, 8, 8), 1000)
    assert len(made.train) + len(made.validation) == 26_000
    assert int(made.train.y.max()) <= 999
    assert made.fingerprint == _stacked(data.load("digits", None)).fingerprint
