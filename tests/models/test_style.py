"""The style-based generator: what a layer's style decides, mixing, truncation, and training."""

import pytest
import torch
import torch.nn.functional as F

from models.resolutions import Progressive, Style
from models.seeding import seeded
from models.style import Generator, Styled

SHAPE, LATENT = (2, 16, 16), 6


@pytest.fixture
def net():
    """Three levels, six layers."""
    with seeded(0):
        return Generator(SHAPE, LATENT, 2)


def latents(count=5, seed=1):
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))


def features(net, make):
    """What each styled convolution gives while images are made, and the images."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *said: seen.append(said[2])) for layer in net.layers
    ]
    images = make()
    for hook in hooks:
        hook.remove()
    return seen, images


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 12, 20)])
def test_images_depend_on_their_latent_alone(shape):
    with seeded(0):
        net = Generator(shape, LATENT, 2)
    z = latents()
    images = net(z).detach()
    assert images.shape == (5, *shape)
    assert 0 < float(images.min()) < float(images.max()) < 1
    assert torch.equal(net(z), images)
    assert torch.allclose(net(z[3:4]), images[3:4], atol=1e-6)
    assert not torch.allclose(images[0], images[1], atol=1e-3)
    # Of a latent its direction counts.
    assert torch.allclose(net(z / 8), images, atol=1e-5)


def test_a_base_that_does_not_double_to_the_sides_is_refused():
    with pytest.raises(ValueError, match="28x28 is no power of two times the base 5"):
        Generator((1, 28, 28), LATENT, 2, 5)


def test_a_style_scales_inputs_and_outputs_have_unit_variance():
    with seeded(0):
        layer = Styled(3, 4, LATENT)
    w, x = latents(2), torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    got = layer(x, w)
    for n in range(2):
        kernel = layer.weight * (1 + layer.style(w[n : n + 1]))[0][None, :, None, None]
        kernel = kernel / kernel.square().sum((1, 2, 3), keepdim=True).sqrt()
        expected = F.leaky_relu(F.conv2d(x[n : n + 1], kernel, padding=1), 0.2) * 2**0.5
        assert torch.allclose(got[n : n + 1], expected, atol=1e-5)


# --- mixing --------------------------------------------------------------------------------------


def test_styles_are_one_per_layer(net):
    w = net.styles(latents())
    assert w.shape == (5, 6, LATENT)
    assert torch.equal(w[:, :1].expand(-1, 6, -1), w)
    assert torch.equal(net.synthesis(w), net(latents()))


@pytest.mark.parametrize("layer", range(7))
def test_layers_before_the_one_mixed_at_are_exactly_those_of_a(net, layer):
    a, b = latents(seed=1), latents(seed=2)
    of_a, image_a = features(net, lambda: net(a))
    of_b, image_b = features(net, lambda: net(b))
    mixed, image = features(net, lambda: net.mix(a, b, layer))
    for number in range(6):
        assert torch.equal(mixed[number], of_a[number]) == (number < layer)
    assert torch.equal(image, image_a) == (layer == 6)
    assert torch.equal(image, image_b) == (layer == 0)
    assert torch.equal(mixed[0], of_b[0]) == (layer == 0)


@pytest.mark.parametrize("layer", [-1, 7])
def test_a_layer_that_is_not_there_is_refused(net, layer):
    with pytest.raises(ValueError, match=f"layer must be from 0 to 6, got {layer}"):
        net.mix(latents(), latents(), layer)


# --- truncation ----------------------------------------------------------------------------------


def test_truncation_goes_from_one_picture_to_no_change(net):
    z = latents()
    net.play(z, torch.Generator().manual_seed(0))
    assert torch.equal(net.truncated(z, 1.0), net(z))
    mean = net.synthesis(net.w_avg.expand(1, 6, LATENT))
    assert torch.allclose(net.truncated(z, 0.0), mean.expand(5, -1, -1, -1), atol=1e-6)
    halfway = (net.styles(z) + net.w_avg) / 2
    assert torch.allclose(net.truncated(z, 0.5), net.synthesis(halfway), atol=1e-6)


@pytest.mark.parametrize("psi", [-0.1, 1.1, float("nan")])
def test_a_psi_outside_0_to_1_is_refused(net, psi):
    with pytest.raises(ValueError, match=r"psi must be in \[0, 1\], got"):
        net.truncated(latents(), psi)


# --- training ------------------------------------------------------------------------------------


def test_the_mean_style_is_a_moving_mean_of_what_is_played(net):
    z = latents()
    net(z)
    net.truncated(z, 0.5)
    net.mix(z, z, 3)
    assert torch.equal(net.w_avg, torch.zeros(LATENT))
    random, mean = torch.Generator().manual_seed(0), net.styles(z)[:, 0].mean(0)
    for number in range(1, 4):
        net.play(z, random)
        assert torch.allclose(net.w_avg, (1 - 0.995**number) * mean, atol=1e-6)
    assert "w_avg" in net.state_dict()
    assert not net.w_avg.requires_grad


def test_nine_of_ten_images_of_training_are_mixed_with_the_latent_before(net):
    count = 2000
    z = latents(count)
    images = net.play(z, torch.Generator().manual_seed(3)).detach()
    assert torch.equal(images, net.play(z, torch.Generator().manual_seed(3)))
    assert not torch.equal(images, net.play(z, torch.Generator().manual_seed(4)))
    with torch.no_grad():
        choices = torch.stack([net.mix(z, z.roll(1, 0), layer) for layer in range(1, 7)], 1)
    gaps = (choices - images[:, None]).abs().amax((2, 3, 4))
    best, layer = gaps.min(1)
    assert float(best.max()) < 1e-5
    shares = torch.bincount(layer, minlength=6) / count
    # Five layers at nine tenths, and no mixing; four standard errors.
    assert torch.allclose(shares, torch.tensor([*[0.18] * 5, 0.1]), atol=4 * (0.15 / count) ** 0.5)


def test_one_latent_mixes_with_itself(net):
    z = latents(1)
    assert torch.equal(net.play(z, torch.Generator().manual_seed(0)), net(z))


def test_styles_are_what_is_added_and_decode_to_the_latents_images():
    made = Style(latent=6, width=4).build((1, 8, 8))
    z = made.latents(5, 0)
    codes = made.codes(z)
    assert torch.equal(made.net.styles(z), codes[:, None].expand(-1, len(made.net.layers), -1))
    assert torch.equal(made.decoded(codes), made.made(z))
    plain = Progressive(latent=6, width=4).build((1, 8, 8))
    assert plain.codes(z) is z
    assert torch.equal(plain.decoded(z), plain.made(z))
