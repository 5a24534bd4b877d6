"""Purification by a learned inverse: a planted inverse is exact, what E is trained for by hand,
what it learns, and that nothing of it hides a gradient.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks.draws import Draws
from attacks.registry import attacks
from bench.errors import RequestError
from bench.resolution import modes_of, resolve
from bench.spec import Request
from defenses.purify_encoder import Inverse, Reencoded
from defenses.registry import defenses
from defenses.transformed import Behind
from defenses.workshop import Workshop
from models import nets
from models.checkpoint import Cache
from models.generators import Generator
from models.priors import PRIORS
from models.registry import generators
from models.seeding import seeded
from models.train import Batch

MODEL = "mlp_relu:epochs=4"
TINY = "purify_encoder:generator=[dcgan:updates=200],epochs=12"
LATENT, CONTRAST = 16, 0.4


class Linear(nn.Module):
    """Images 4x4 of latents by an orthogonal matrix, so small that they stay in [0, 1]."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(3)
        basis, _ = torch.linalg.qr(torch.randn(LATENT, LATENT, generator=random))
        self.register_buffer("basis", basis)

    def forward(self, z):
        return (0.5 + CONTRAST * z @ self.basis).view(-1, 1, 4, 4)


class Back(nn.Module):
    """The exact inverse, in standard deviations of the prior, and before it is bent to its edge."""

    def __init__(self, linear):
        super().__init__()
        self.net, self.is_bent = linear.net, linear.prior == PRIORS["uniform"]

    def forward(self, x):
        z = (x.flatten(1) - 0.5) / CONTRAST @ self.net.basis.T
        if self.is_bent:
            edge = math.sqrt(3 / LATENT)
            z = edge * torch.atanh(z / edge)
        return math.sqrt(LATENT) * z


@pytest.fixture(params=["normal", "uniform"])
def linear(request):
    return Generator(Linear(), LATENT, request.param, (1, 4, 4))


# --- planted inverse and objective ---------------------------------------------------------------


def test_an_exact_inverse_leaves_own_images_as_they_are(linear):
    x, z = linear.sample(9, 0), linear.latents(9, 0)
    purifier = Reencoded(linear, Back(linear))
    torch.testing.assert_close(purifier.latents(x), z, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(purifier(x), x, rtol=1e-3, atol=1e-4)


class Far(nn.Module):
    """Says latents far beyond the prior, as large as the image is light."""

    def forward(self, x):
        return 5 * x.flatten(1)


def test_latents_beyond_the_prior_are_bent_back_and_every_one_has_a_slope():
    linear = Generator(Linear(), LATENT, "uniform", (1, 4, 4))
    x = torch.full((2, 1, 4, 4), 0.9).requires_grad_()
    z = Reencoded(linear, Far()).latents(x)
    assert (z.abs() <= math.sqrt(3 / LATENT)).all()
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert (slope > 0).all()


def batch(x):
    return Batch(x, torch.zeros(len(x)).long(), torch.arange(5, 5 + len(x)), 2, 0.0)


def test_an_exact_inverse_costs_nothing(linear):
    x = linear.sample(6, 1)
    loss = Inverse(linear, 7).loss(Back(linear), batch(x))
    assert float(loss) == pytest.approx(0, abs=1e-9)


def test_the_objective_by_hand(linear):
    """E says 0 for every image: its image is that of the mean latent, the whole of it 1/2."""

    class Nothing(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), LATENT)

    x = torch.full((6, 1, 4, 4), 0.7)
    draws = Draws(7, torch.arange(5, 11), torch.full((6,), 2))
    z = linear.prior.latents(draws.uniform(torch.Size((6, LATENT)), "latent"))
    squares = z.square().mean()
    # |1/2 - 0.7|^2, the size of own images about 1/2 (an orthogonal matrix keeps it), and of z.
    expected = 0.2**2 + CONTRAST**2 * squares + 0.01 * LATENT * squares
    torch.testing.assert_close(Inverse(linear, 7).loss(Nothing(), batch(x)), expected)
    other = Inverse(linear, 8).loss(Nothing(), batch(x))
    assert not torch.equal(other, expected)


def test_it_learns_the_inverse_of_a_linear_generator():
    """E is linear, too, so that the exact inverse is among what it can say."""
    linear = Generator(Linear(), LATENT, "normal", (1, 4, 4))
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nets.Centre(), nn.Linear(LATENT, LATENT))
    optimiser, objective = torch.optim.Adam(net.parameters()), Inverse(linear, 0)
    x = linear.sample(64, 2)
    for update in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 0.03 * (1 - update / 400)
        made = Batch(x, torch.zeros(64).long(), torch.arange(64), update, 0.0)
        optimiser.zero_grad()
        torch.autograd.backward(objective.loss(net, made))
        optimiser.step()
    unseen = linear.sample(200, 3)
    with torch.no_grad():
        made = Reencoded(linear, net)(unseen)
    spread = float((unseen - 0.5).square().mean())
    # Measured: 5e-10 of 0.01.
    assert float((made - unseen).square().mean()) < 1e-6 * spread


def test_the_encoder_takes_images_of_any_sides_from_four():
    for shape in ((1, 4, 4), (3, 9, 6), (1, 28, 28)):
        with seeded(1):
            net = nets.encoder(shape, 7)
        assert net(torch.zeros(2, *shape)).shape == (2, 7)


# --- deployed ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def deploy(workshop, cache):
    def make(keys="", **changes):
        return defenses.get(TINY + keys).deploy(workshop(MODEL, cache=cache, **changes))

    return make


def test_it_reconstructs_better_than_the_mean_image(deploy, digits):
    x, mean = digits.test.images(slice(None)), digits.train.images(slice(None)).mean(0)
    purifier = deploy().purified
    with torch.no_grad():
        error = float(F.mse_loss(purifier(x), x))
    # Measured: 0.055 and 0.073, by a generator of 200 updates.
    assert error < 0.85 * float(F.mse_loss(mean.expand_as(x), x))


def test_the_net_sees_what_the_generator_makes(deploy, digits):
    defended = deploy()
    x = digits.test.images(slice(0, 9))
    pipeline, purifier = defended.predict, defended.purified
    assert isinstance(pipeline, Behind)
    assert defended.surrogate is pipeline
    assert defended.handed("white-box") is pipeline
    assert defended.handed("latent") is defended.inside is pipeline.net
    made = defended.generator(purifier.latents(x))
    assert torch.equal(purifier(x), made)
    assert torch.equal(pipeline(x), pipeline.net(made))
    assert (defended.passes, defended.score, defended.random) == (3, None, False)
    assert not any(p.requires_grad for p in defended.generator.parameters())


def test_gradients_flow_through_all_of_it(deploy, digits):
    pipeline = deploy().predict.double()
    x, step = digits.test.images(slice(0, 1)).double(), 1e-5
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pipeline(leaf)[0, 3], leaf)
    moved = torch.zeros_like(x)
    moved[0, 0, 3, 4] = step
    with torch.no_grad():
        slope = (pipeline(x + moved)[0, 3] - pipeline(x - moved)[0, 3]) / (2 * step)
    assert gradient[0, 0, 3, 4] == pytest.approx(float(slope), rel=1e-4)
    assert gradient[0, 0, 3, 4] != 0


def test_bpda_has_the_values_of_the_pipeline_and_the_gradient_of_the_net(deploy, digits):
    defended = deploy()
    x = digits.test.images(slice(0, 3)).requires_grad_()
    said = defended.handed("bpda")(x)
    (slope,) = torch.autograd.grad(said.logsumexp(1).sum(), x)
    made = defended.purified(x).detach().requires_grad_()
    (own,) = torch.autograd.grad(defended.inside(made).logsumexp(1).sum(), made)
    assert torch.equal(said, defended.predict(x))
    assert torch.equal(slope, own)


@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_images_that_are_badly_made_may_be_refused(fpr, deploy, digits):
    defended = deploy(f",fpr={fpr}")
    x = digits.validation.images(slice(None))
    with torch.no_grad():
        refused = defended.predict(x).argmax(1) == 10
        errors = (defended.purified(x) - x).square().flatten(1).mean(1)
        assert torch.equal(defended.handed("bpda")(x), defended.predict(x))
    torch.testing.assert_close(defended.score(x), errors)
    assert int(refused.sum()) == math.floor(fpr * len(x))
    assert float(errors[refused].min()) > float(errors[~refused].max())


def test_the_refusal_past_the_purifier_is_that_of_its_distance(deploy, digits):
    defended = deploy(",fpr=0.05")
    x = digits.test.images(slice(0, 3)).requires_grad_()
    _, scores = defended.handed("bpda").detector(x)
    (slope,) = torch.autograd.grad(scores.sum(), x)
    made = defended.purified(x).detach()
    torch.testing.assert_close(slope, 2 * (x.detach() - made) / 64)


@pytest.mark.parametrize("train", ["purified", "both"])
def test_the_classifier_may_learn_from_purified_images(
    train, deploy, digits, monkeypatch, workshop
):
    purifier = deploy().purified
    seen, fit = [], type(workshop(MODEL)).fit

    def watched(self, objective, identity, *, instead=None):
        if instead is not None:
            seen.append((instead.make(self.train), objective.text))
        return fit(self, objective, identity, instead=instead)

    monkeypatch.setattr(Workshop, "fit", watched)
    defended = deploy(f",train={train},images=12")
    ((split, text),) = seen
    with torch.no_grad():
        made = purifier(digits.train.images(slice(0, 12)))
    assert torch.equal(split.images(slice(0, 12)), made)
    assert torch.equal(split.y[:12], digits.train.y[:12])
    assert defended.inside is None
    if train == "purified":
        assert (len(split), text) == (12, "L(G(E(x)), y)")
    else:
        assert len(split) == 12 + len(digits.train)
        assert text == "L(G(E(x)), y) + L(x, y)"


def test_another_seed_is_another_encoder_of_the_same_generator(deploy):
    one, other = deploy(), deploy(",seed=1")
    assert not torch.equal(one.purified.encoder[1].weight, other.purified.encoder[1].weight)
    assert all(
        map(torch.equal, one.generator.state_dict().values(), other.generator.state_dict().values())
    )
    assert all(map(torch.equal, one.inside.parameters(), other.inside.parameters()))


def test_the_threshold_trains_nothing_anew(deploy):
    lines = []
    deploy()
    deploy(",fpr=0.05", say=lines.append)
    assert lines == []


# --- what it says, and what is refused -----------------------------------------------------------


def test_modes_are_its_own_and_latent_comes_with_it():
    recipe = defenses.get("purify_encoder")
    modes = ("oblivious", "white-box", "bpda", "transfer")
    assert modes_of(attacks.get("pgd"), recipe, oblivious=True) == modes
    assert modes_of(attacks.get("latent"), recipe, oblivious=True) == ("latent",)
    assert (recipe.masking, recipe.randomness, recipe.rejection) == ("", "", "")
    assert defenses.get("purify_encoder:fpr=0.05").rejection
    cells = resolve(Request(defenses=("purify_encoder",), eps="0.1")).cells
    assert "latent" in {cell.attack.mode for cell in cells}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("images=0", "images must be at least 1, got 0"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("fpr=1", "fpr must be in"),
        ("seed=-1", r"seed must be from 0 to 2\*\*64 - 1, got -1"),
        ("train=transformed", "train must be one of"),
        ("generator=nope", "no generator 'nope'"),
        ("generator=[dcgan:latent=0]", "latent must be at least 1, got 0"),
        ("generator=[conditional]", "is asked for a class, which no gradient finds"),
        ("generator=[dcgan:updates=0]", "is untrained; untrained=true takes it anyway"),
    ],
)
def test_bad_values_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        defenses.get(f"purify_encoder:{keys}")


def test_data_it_cannot_work_with_is_refused_before_anything_is_trained(workshop, digits):
    lines = []
    few = digits.validation.take(torch.arange(19))
    with pytest.raises(ValueError, match=r"fpr=0\.05 needs at least 20 clean validation images"):
        defenses.get("purify_encoder:fpr=0.05").deploy(
            workshop(MODEL, validation=few, say=lines.append)
        )
    with pytest.raises(ValueError, match="images of at least 4 x 4 pixels, got 3 x 9"):
        defenses.get("purify_encoder").check_data((1, 3, 9), 1000)
    assert lines == []
    with pytest.raises(RequestError, match="needs at least 1,000 clean validation images"):
        resolve(Request(defenses=("purify_encoder:fpr=0.001",)))


def test_without_a_training_split_it_is_refused(tmp_path):
    given = "purify_encoder:generator=[dcgan:updates=0],untrained=true"
    with pytest.raises(ValueError, match="no training split for the encoder: add train="):
        defenses.get(given).check_data((1, 8, 8), 0)
    with pytest.raises(ValueError, match="no training split for generator dcgan: add train="):
        defenses.get("purify_encoder").check_data((1, 8, 8), 0)
    with pytest.raises(ValueError, match="no training split for train=both"):
        defenses.get(f"{given},train=both").check_data((1, 8, 8), 0)
    assert generators.get("dcgan:updates=0").is_untrained
