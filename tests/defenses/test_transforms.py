"""Transforms in front of a net: by hand, against slow references and other libraries."""

import io
import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from attacks.draws import Draws
from attacks.oracles import frozen
from attacks.pipelines import evaluation_draws
from defenses.bitdepth import Rounded
from defenses.jpeg import Compressed
from defenses.median import Median
from defenses.noisy_input import Added
from defenses.registry import defenses
from defenses.resizepad import Shrunk, placed
from defenses.threshold import Binary
from defenses.transformed import Behind, OnTransformed, Passing
from defenses.tv import Denoised, differences, divergence, length
from models import nets
from models.seeding import seeded
from models.split import Split
from models.train import Batch, accuracy


def images(count=4, shape=(1, 8, 8), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def net():
    with seeded(0):
        return nets.cnn_small((1, 8, 8), 10).eval()


def ids(count):
    return torch.arange(count) + 17


# --- rounding ------------------------------------------------------------------------------------


def test_bit_depth_by_hand():
    x = torch.tensor([[0.0, 0.16, 0.17, 0.49, 0.51, 0.84, 1.0]])
    third = 1 / 3
    expected = torch.tensor([[0.0, 0.0, third, third, 2 * third, 1.0, 1.0]])
    torch.testing.assert_close(Rounded(4)(x), expected)
    assert Rounded(2)(x).tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_all_bits_leave_pixels_of_eight_bits_alone():
    x = torch.arange(256).float().div(255).view(1, 1, 16, 16)
    assert torch.equal(Rounded(256)(x), x)


def test_threshold_by_hand():
    x = torch.tensor([[0.0, 0.3, 0.31, 1.0]])
    assert Binary(0.3)(x).tolist() == [[0, 0, 1, 1]]
    wide = images()
    assert torch.equal(Binary(0.5)(wide), Rounded(2)(wide)), "one bit"


# --- a file format -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 16)])
@pytest.mark.parametrize("quality", [10, 75])
def test_jpeg_is_what_pillow_writes_and_reads(shape, quality):
    x = images(5, shape)
    made = Compressed(quality)(x)
    assert made.shape == x.shape
    assert made.dtype == torch.float32
    for one, image in zip(made, x, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, format="JPEG", quality=quality)
        back = np.asarray(Image.open(file)).reshape(pixels.shape)
        assert torch.equal(one, torch.tensor(back).permute(2, 0, 1).float() / 255)
    assert torch.equal(Compressed(quality)(x[2:3]), made[2:3])
    assert torch.equal(Compressed(quality)(x), made)
    assert Compressed(quality)(x[:0]).shape == (0, *shape)


def test_jpeg_of_one_grey_is_that_grey():
    x = torch.full((1, 1, 16, 16), 128 / 255)
    assert torch.equal(Compressed(75)(x), x)


def test_jpeg_refuses_other_channels(workshop):
    with pytest.raises(ValueError, match="jpeg needs images of 1 or 3 channels, got 2"):
        defenses.get("jpeg").deploy(workshop("logreg", shape=(2, 8, 8)))


# --- median --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2, 3, 4, 5, 8])
def test_median_is_that_of_scipy(window):
    x = images(3, (2, 8, 11))
    made = Median(window)(x)
    size = (1, 1, window, window)
    expected = scipy.ndimage.median_filter(x.numpy(), size=size, mode="reflect")
    assert np.array_equal(made.numpy(), expected)


def test_median_refuses_a_window_larger_than_the_image(workshop):
    with pytest.raises(ValueError, match="window must be at most the image's side 8, got 9"):
        defenses.get("median:window=9").deploy(workshop("logreg"))


# --- total variation -----------------------------------------------------------------------------


def energy(u, x, weight):
    """|u - x|^2 / 2 + weight TV(u) of each image, one component after the other."""
    total = []
    for one, image in zip(u, x, strict=True):
        value = 0.5 * float((one - image).square().sum())
        for channel in one:
            height, width = channel.shape
            for i in range(height):
                for j in range(width):
                    down = float(channel[i + 1, j] - channel[i, j]) if i + 1 < height else 0.0
                    right = float(channel[i, j + 1] - channel[i, j]) if j + 1 < width else 0.0
                    value += weight * math.hypot(down, right)
        total.append(value)
    return torch.tensor(total)


def test_divergence_is_minus_the_adjoint_of_the_differences():
    u, p = images(2).double(), images(4, seed=1).view(2, 2, 1, 8, 8).double()
    left, right = (differences(u) * p).sum(), -(u * divergence(p)).sum()
    torch.testing.assert_close(left, right)


def test_total_variation_decreases_the_energy_to_its_minimum():
    x = images(2, (1, 5, 6)).double()
    found = {n: Denoised(0.2, n)(x) for n in (5, 20, 100, 3000)}
    energies = [energy(u, x, 0.2) for u in (x, *found.values())]
    for before, after in itertools.pairwise(energies):
        assert (after < before).all()
    # The dual gives the minimum: the gap closes, with p of length at most the weight.
    u = found[3000]
    p = x - u  # = weight div p
    dual = 0.5 * (x.square() - (x - p).square()).flatten(1).sum(1)
    torch.testing.assert_close(energies[-1].double(), dual, rtol=1e-4, atol=0)


def test_total_variation_against_a_slow_reference():
    """Two pixels: (a - b) shrinks by twice the weight, until they meet."""
    x = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2)
    for weight, expected in ((0.1, [0.3, 0.8]), (0.3, [0.5, 0.6]), (0.5, [0.55, 0.55])):
        made = Denoised(weight, 300)(x).flatten()
        torch.testing.assert_close(made, torch.tensor(expected), rtol=0, atol=1e-3)


def test_length_by_hand():
    assert length(torch.tensor([[3.0], [4.0]])).tolist() == [5.0]


def test_total_variation_of_a_flat_image_has_a_gradient():
    x = torch.full((1, 1, 4, 4), 0.5).requires_grad_()
    made = Denoised(0.1, 20)(x)
    (gradient,) = torch.autograd.grad(made.sum(), x)
    torch.testing.assert_close(made, x)
    torch.testing.assert_close(gradient, torch.ones_like(x), msg="the mean stays")


# --- random size and place -----------------------------------------------------------------------


def test_full_size_is_the_identity():
    x = images(3, (2, 8, 11))
    rows, columns = torch.full((3,), 8), torch.full((3,), 11)
    nowhere = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(placed(x, rows, columns, nowhere, nowhere), x)
    assert torch.equal(Shrunk(1.0)(x, Draws.of(x, 0)), x)


def test_resizing_is_that_of_torch_with_zeros_around():
    x = images(4, (2, 9, 11))
    rows, columns = torch.tensor([9, 7, 5, 4]), torch.tensor([11, 8, 6, 5])
    top, left = torch.tensor([0, 2, 0, 5]), torch.tensor([0, 3, 5, 1])
    made = placed(x, rows, columns, top, left)
    for i in range(4):
        size = (int(rows[i]), int(columns[i]))
        small = F.interpolate(x[i : i + 1], size, mode="bilinear", align_corners=False)
        right, below = 11 - size[1] - int(left[i]), 9 - size[0] - int(top[i])
        wide = F.pad(small, (int(left[i]), right, int(top[i]), below))
        torch.testing.assert_close(made[i : i + 1], wide)


def test_sizes_and_places_are_all_reached_and_the_images_own():
    x = torch.ones(400, 1, 8, 8)
    draws = Draws(0, ids(400), torch.zeros(400, dtype=torch.int64))
    made = Shrunk(0.75)(x, draws)
    lit = made[:, 0] > 0
    rows, columns = lit.any(2).sum(1), lit.any(1).sum(1)
    assert set(rows.tolist()) == {6, 7, 8}
    assert torch.equal(rows, columns)
    corners = {
        (int(r), *divmod(int(m.flatten().int().argmax()), 8))
        for r, m in zip(rows, lit, strict=True)
    }
    assert len(corners) == 9 + 4 + 1
    few = Draws(0, ids(400)[5:7], torch.zeros(2, dtype=torch.int64))
    assert torch.equal(Shrunk(0.75)(x[5:7], few), made[5:7])


# --- noise ---------------------------------------------------------------------------------------


def test_noise_at_prediction_by_hand():
    x = images()
    draws = evaluation_draws(ids(4), 3)
    expected = x + 0.5 * draws.normal(x.shape, "noise")
    assert torch.equal(Added(0.5)(x, draws), expected)


# --- what they share -----------------------------------------------------------------------------

SPECS = [
    ("noisy_input", True),
    ("bitdepth", False),
    ("threshold", False),
    ("jpeg", False),
    ("median", False),
    ("tv:train=clean", False),
    ("resizepad", True),
]


@pytest.mark.parametrize(("spec", "random"), SPECS)
def test_the_bare_classifier_is_inside_where_it_was_trained_clean(spec, random, workshop):
    shop = workshop("logreg:epochs=1")
    defense = defenses.get(spec)
    defended = defense.deploy(shop)
    plain = shop.of(shop.model).undefended()
    x = images()
    assert defended.random is random
    assert torch.equal(defended.inside(x), plain(x))
    transform = defended.predict.transform
    draws = evaluation_draws(ids(4), 0)
    moved = transform(x, draws) if random else transform(x)
    answer = defended.predict(x, draws) if random else defended.predict(x)
    assert torch.equal(answer, plain(moved))
    assert defended.exact is bool(defense.masking)


def test_one_trained_on_transformed_images_has_no_bare_classifier(workshop):
    shop = workshop("logreg:epochs=1")
    assert defenses.get("threshold:train=transformed").deploy(shop).inside is None


def test_a_masked_transform_passes_the_gradient_on():
    inner, x = net(), images().requires_grad_()
    surrogate = Behind(Passing(Binary(0.5)), inner)
    with frozen(surrogate):
        value = surrogate(x)
        assert torch.equal(value, inner(Binary(0.5)(x)))
        (gradient,) = torch.autograd.grad(value.logsumexp(1).sum(), x)
        binary = Binary(0.5)(x.detach()).requires_grad_()
        (expected,) = torch.autograd.grad(inner(binary).logsumexp(1).sum(), binary)
    assert torch.equal(gradient, expected)


def test_the_objective_by_hand():
    inner, x, y = net(), images(600), torch.arange(600) % 10
    batch = Batch(x, y, torch.arange(600), 2, 0.0)
    objective = OnTransformed(Binary(0.5), "threshold", 0)
    assert torch.equal(objective.loss(inner, batch), F.cross_entropy(inner(Binary(0.5)(x)), y))
    right = accuracy(inner, Split(Binary(0.5)(x), y))
    measured = objective.validate(inner, Split(x, y), 1.0)
    assert measured == {"score": right, "transformed": right}


def test_the_objective_of_a_random_transform_draws_per_image_and_epoch():
    x, y = images(6), torch.arange(6)
    objective = OnTransformed(Added(0.5), "noisy_input", 3)

    class First(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10]

    for epoch in (0, 4):
        draws = Draws(3, ids(6), torch.full((6,), epoch))
        expected = F.cross_entropy(First()(Added(0.5)(x, draws)), y)
        assert torch.equal(objective.loss(First(), Batch(x, y, ids(6), epoch, 0.0)), expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bitdepth:bits=0", "bits must be from 1 to 8, got 0"),
        ("bitdepth:bits=9", "bits must be from 1 to 8, got 9"),
        ("threshold:level=1.0", r"level must be in \(0, 1\), got 1.0"),
        ("jpeg:quality=0", "quality must be from 1 to 95, got 0"),
        ("jpeg:quality=96", "quality must be from 1 to 95, got 96"),
        ("median:window=1", "window must be at least 2, got 1"),
        ("tv:weight=0", "weight must be finite and above 0, got 0"),
        ("tv:weight=inf", "weight must be finite and above 0, got inf"),
        ("tv:iterations=0", "iterations must be at least 1, got 0"),
        ("resizepad:min_share=0", r"min_share must be in \(0, 1\], got 0"),
        ("resizepad:min_share=1.1", r"min_share must be in \(0, 1\], got 1.1"),
        ("noisy_input:sigma=-1", "sigma must be finite and at least 0, got -1"),
    ],
)
def test_bad_values_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        defenses.get(spec)
