"""Architectures: shapes, sizes and the facts of the papers they are taken from."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.verify import look_like_probabilities
from models import nets, recipes
from models.recipes import Cnn, CnnSmall, Logreg, Mlp, Resnet18
from models.registry import models
from models.seeding import seeded

NETS = {
    "logreg": nets.logreg,
    "mlp": nets.mlp,
    "mlp_relu": nets.mlp_relu,
    "cnn_small": nets.cnn_small,
    "cnn": nets.cnn,
    "resnet18": nets.resnet18,
}
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]

# By hand: weights and biases of every layer, and of a batch norm scale and shift.
_STAGES = (
    2 * (2 * 64 * 64 * 9 + 2 * 2 * 64),
    (64 * 128 * 9 + 128 * 128 * 9 + 2 * (64 + 128) + 64 * 128) + (2 * 128 * 128 * 9 + 2 * 2 * 128),
    (128 * 256 * 9 + 256 * 256 * 9 + 2 * (128 + 256) + 128 * 256)
    + (2 * 256 * 256 * 9 + 2 * 2 * 256),
    (256 * 512 * 9 + 512 * 512 * 9 + 2 * (256 + 512) + 256 * 512)
    + (2 * 512 * 512 * 9 + 2 * 2 * 512),
)
SIZES = {
    ("logreg", (1, 8, 8)): 64 * 10 + 10,
    ("logreg", (1, 28, 28)): 784 * 10 + 10,
    ("logreg", (3, 32, 32)): 3072 * 10 + 10,
    ("mlp", (1, 8, 8)): (64 * 100 + 100) + (100 * 100 + 100) + (100 * 10 + 10),
    ("mlp", (1, 28, 28)): (784 * 100 + 100) + (100 * 100 + 100) + (100 * 10 + 10),
    ("mlp_relu", (1, 28, 28)): (784 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10),
    ("cnn_small", (1, 8, 8)): (16 * 16 + 16)
    + (32 * 16 * 16 + 32)
    + (32 * 2 * 2 * 100 + 100)
    + (100 * 10 + 10),
    ("cnn_small", (1, 28, 28)): (16 * 16 + 16)
    + (32 * 16 * 16 + 32)
    + (32 * 7 * 7 * 100 + 100)
    + (100 * 10 + 10),
    ("cnn", (1, 28, 28)): (32 * 25 + 32)
    + (64 * 32 * 25 + 64)
    + (64 * 7 * 7 * 1024 + 1024)
    + (1024 * 10 + 10),
    ("resnet18", (3, 32, 32)): 3 * 64 * 9 + sum(_STAGES) + 2 * 512 + (512 * 10 + 10),
}


def built(name, shape, classes=10, seed=0):
    with seeded(seed):
        return NETS[name](shape, classes).eval()


def images(count, shape, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def of_type(net, kind):
    return [module for module in net.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_images_become_logits(name, shape, classes):
    logits = built(name, shape, classes)(images(3, shape)).detach()
    assert logits.shape == (3, classes)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert not look_like_probabilities(logits)


@pytest.mark.parametrize(("name", "shape"), SIZES, ids=str)
def test_sizes_are_those_worked_out_by_hand(name, shape):
    assert sum(p.numel() for p in built(name, shape).parameters()) == SIZES[name, shape]


def test_the_hand_worked_size_of_resnet18_is_the_published_one():
    # 11,171,146 of the usual PyTorch version, which leaves out the last batch norm of 512 channels.
    assert SIZES["resnet18", (3, 32, 32)] == 11_171_146 + 2 * 512


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_every_image(name, shape):
    x = images(4, shape).requires_grad_()
    net = built(name, shape)
    loss = nn.functional.cross_entropy(net(x), torch.arange(4))
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", NETS)
def test_an_image_is_judged_alone_in_eval_mode(name):
    shape = SHAPES[0]
    net, x = built(name, shape), images(4, shape)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]), rtol=0, atol=1e-5)  # other kernels


@settings(max_examples=25)  # each builds two nets
@given(st.integers(4, 33), st.integers(4, 33), st.sampled_from([1, 3]))
def test_convolutional_nets_take_images_of_any_size(height, width, channels):
    shape = (channels, height, width)
    for name in ("cnn_small", "cnn"):
        assert built(name, shape, 3)(images(1, shape)).shape == (1, 3)


def test_logreg_is_linear_in_the_pixels():
    net, (one, two) = built("logreg", (1, 8, 8)), images(2, (1, 8, 8))
    between = net((0.25 * one + 0.75 * two)[None])
    torch.testing.assert_close(between, 0.25 * net(one[None]) + 0.75 * net(two[None]))


def test_mlp_is_fc100_100_10_with_sigmoids():
    net = built("mlp", (1, 28, 28))
    assert [tuple(layer.weight.shape) for layer in of_type(net, nn.Linear)] == [
        (100, 784),
        (100, 100),
        (10, 100),
    ]
    assert len(of_type(net, nn.Sigmoid)) == 2
    assert isinstance(net[-1], nn.Linear), "logits, not probabilities"


def test_cnn_small_is_the_fast_adversarial_training_net():
    convolutions = of_type(built("cnn_small", (1, 28, 28)), nn.Conv2d)
    facts = [(c.out_channels, c.kernel_size, c.stride, c.padding) for c in convolutions]
    assert facts == [(16, (4, 4), (2, 2), (1, 1)), (32, (4, 4), (2, 2), (1, 1))]
    widths = [layer.out_features for layer in of_type(built("cnn_small", (1, 28, 28)), nn.Linear)]
    assert widths == [100, 10]


def test_cnn_is_the_mnist_challenge_net():
    net = built("cnn", (1, 28, 28))
    facts = [(c.out_channels, c.kernel_size, c.stride, c.padding) for c in of_type(net, nn.Conv2d)]
    assert facts == [(32, (5, 5), (1, 1), (2, 2)), (64, (5, 5), (1, 1), (2, 2))]
    assert [layer.out_features for layer in of_type(net, nn.Linear)] == [1024, 10]
    assert len(of_type(net, nn.MaxPool2d)) == 2


def test_cnn_starts_from_truncated_normal_weights_and_biases_of_a_tenth():
    net = built("cnn", (1, 28, 28))
    for layer in of_type(net, nn.Conv2d | nn.Linear):
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.1))
        assert layer.weight.abs().max() <= 0.2  # TensorFlow redraws what is beyond two sd
    # The sd of a standard normal cut at +-2 is sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)) = 0.87963;
    # the largest layer has 3.2 million weights, so its sample sd lies within 0.1 % of that.
    widest = max(of_type(net, nn.Linear), key=lambda layer: layer.weight.numel())
    assert float(widest.weight.detach().std()) == pytest.approx(0.1 * 0.87963, rel=2e-3)
    assert float(widest.weight.detach().mean()) == pytest.approx(
        0, abs=5 * 0.088 / math.sqrt(3.2e6)
    )


def test_resnet18_has_eighteen_layers_and_three_projections():
    net = built("resnet18", (3, 32, 32))
    kernels = [c.kernel_size[0] for c in of_type(net, nn.Conv2d)]
    assert kernels.count(3) + len(of_type(net, nn.Linear)) == 18
    assert kernels.count(1) == 3
    assert all(c.bias is None for c in of_type(net, nn.Conv2d))


def test_resnet18_keeps_the_size_of_small_images_at_first_and_halves_it_three_times():
    net = built("resnet18", (3, 32, 32))
    sizes, x = [], images(1, (3, 32, 32))
    for layer in net:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    ends = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert [size for size in dict.fromkeys(sizes) if len(size) == 3 and size[0] >= 64] == [
        *ends,
        (512, 1, 1),
    ]


def test_resnet18_blocks_activate_before_they_convolve_and_add_the_input_as_it_is():
    # With a silent residual branch a pre-activation block is the identity, negative values too; a
    # post-activation block would return relu(x).
    block = next(m for m in built("resnet18", (3, 32, 32)).modules() if hasattr(m, "conv2"))
    nn.init.zeros_(block.conv2.weight)
    x = images(2, (64, 8, 8)) - 0.5
    assert torch.equal(block(x), x)


def test_resnet18_normalises_inside():
    net, x = built("resnet18", (3, 32, 32)), images(2, (3, 32, 32))
    assert torch.equal(net[0](x), (x - 0.5) / 0.25)
    assert torch.equal(net[1:]((x - 0.5) / 0.25), net(x))


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [Logreg, Mlp, CnnSmall, Cnn, Resnet18])
def test_a_recipe_builds_its_net_in_eval_mode_under_its_seed(recipe):
    shape = (3, 32, 32) if recipe is Resnet18 else (1, 8, 8)
    name = models.name_of(recipe())
    one = recipe(seed=5).build(shape, 10)
    assert not one.training
    expected, other = built(name, shape, seed=5), recipe(seed=6).build(shape, 10)
    for key, value in one.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key])
    assert any(
        not torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items()
    )


@pytest.mark.parametrize(
    ("recipe", "images", "batch"),
    [
        (CnnSmall(), 55_000, 64),
        (CnnSmall(), 1168, 64),
        (Cnn(), 55_000, 128),
        (Cnn(), 2048, 128),
        (Cnn(), 1168, 73),  # few images: a batch is a sixteenth of them
        (CnnSmall(), 100, 32),  # but at least 32
        (CnnSmall(batch=584), 1168, 584),  # what is asked for is what is done
        (CnnSmall(batch=8), 55_000, 8),
        (Resnet18(), 45_000, 128),
    ],
)
def test_default_training_is_long_enough_and_no_longer(recipe, images, batch):
    settings = recipe.settings(images, 1)
    assert settings.batch == batch
    least = max(recipe.least_epochs, recipes._LEAST_UPDATES * batch / images)
    assert settings.epochs - 1 < least <= settings.epochs
    assert replace(recipe, epochs=3).settings(images, 1).epochs == 3


def test_photographs_in_colour_are_shifted_and_mirrored():
    assert Resnet18().settings(45_000, 3).flips
    assert not CnnSmall().settings(55_000, 1).flips


def test_each_recipe_trains_as_its_docstring_says():
    settings = Resnet18(seed=4).settings(45_000, 3)
    assert (settings.optimiser, settings.lr, settings.decay) == ("sgd", 0.1, 5e-4)
    assert settings.seed == 4
    settings = CnnSmall().settings(55_000, 1)
    assert (settings.optimiser, settings.lr, settings.decay) == ("adam", 5e-3, 0.0)
    assert Cnn().settings(55_000, 1).lr == 1e-3
