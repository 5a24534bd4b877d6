"""The autoencoder: its layers and objective by hand, what it learns, what it refuses."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks.draws import Draws
from attacks.registry import attacks
from bench.resolution import modes_of
from defenses.autoencoder import Reconstruction
from defenses.reformed import Reconstructing
from defenses.registry import defenses
from defenses.transformed import Behind
from models import nets
from models.checkpoint import Cache
from models.registry import models
from models.seeding import seeded
from models.split import Split
from models.train import Batch

MODEL = "mlp_relu:epochs=4"


# --- layers and objective ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 3)])
def test_it_answers_with_images_of_the_same_shape(shape):
    with seeded(1):
        net = nets.autoencoder(shape)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    made = net(x)
    assert made.shape == x.shape
    assert ((made > 0) & (made < 1)).all()
    # three channels into, between and out of five convolutions 3x3, and their biases
    weights = 9 * (3 * shape[0] + 3 * 9 + 3 * shape[0]) + 4 * 3 + shape[0]
    assert sum(p.numel() for p in net.parameters()) == weights


def test_the_middle_has_half_the_size():
    with seeded(1):
        net = nets.autoencoder((1, 8, 8))
    sizes, x = [], torch.zeros(1, 1, 8, 8)
    for layer in net:
        x = layer(x)
        sizes += [x.shape[3]] if isinstance(layer, nn.Conv2d) else []
    assert sizes == [8, 4, 4, 8, 8]


def test_the_objective_by_hand(digits):
    x, y = digits.train.images(slice(0, 6)), digits.train.y[:6]
    with seeded(1):
        net = nets.autoencoder((1, 8, 8))
    objective = Reconstruction(0.3, 5)
    batch = Batch(x, y, torch.arange(10, 16), 2, 0.0)
    draws = Draws(5, torch.arange(10, 16), torch.full((6,), 2))
    noisy = (x + 0.3 * draws.normal(x.shape, "noise")).clamp(0, 1)
    expected = ((net(noisy) - x) ** 2).mean()
    torch.testing.assert_close(objective.loss(net, batch), expected)
    other = replace(batch, epoch=3)
    assert not torch.equal(objective.loss(net, other), objective.loss(net, batch))
    still = Reconstruction(0.0, 5)
    torch.testing.assert_close(still.loss(net, batch), F.mse_loss(net(x), x))
    assert objective.text == "|r(x + n) - x|^2; n normal, standard deviation 0.3"


def test_the_score_is_minus_the_error_on_clean_images():
    with seeded(1):
        net = nn.Conv2d(1, 1, 1)
    nn.init.constant_(net.weight, 0.5)
    nn.init.constant_(net.bias, 0.25)
    x = torch.zeros(1030, 1, 2, 2)
    x[:515] = 1  # answers 0.75 and 0.25: both off by a quarter
    measured = Reconstruction(0.1, 0).validate(net, Split(x, torch.zeros(1030).long()), 1.0)
    assert measured == {"score": -1 / 16, "error": 1 / 16}


def test_scores_are_mean_squared_errors():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    x = torch.tensor([[[[0.0, 0.0]]], [[[1.0, 1.0]]], [[[0.2, 0.6]]]])
    logits, scores = Reconstructing(Half(), nn.Flatten())(x)
    assert torch.equal(logits, x.flatten(1) / 2)
    torch.testing.assert_close(scores, torch.tensor([0.0, 0.25, (0.01 + 0.09) / 2]))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("noise=-1", "noise must be finite and at least 0, got -1.0"),
        ("noise=inf", "noise must be finite and at least 0, got inf"),
        ("fpr=0", r"fpr must be in \[1e-06, 1\), got 0.0"),
        ("fpr=1", r"fpr must be in \[1e-06, 1\), got 1.0"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("seed=-1", r"seed must be from 0 to 2\*\*64 - 1, got -1"),
    ],
)
def test_bad_values_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        defenses.get(f"autoencoder:{keys}")


def test_data_it_cannot_work_with_is_refused_before_anything_is_trained(workshop, digits):
    lines = []
    few = digits.validation.take(torch.arange(19))
    with pytest.raises(ValueError, match=r"fpr=0\.05 needs at least 20 clean validation images"):
        defenses.get("autoencoder:fpr=0.05").deploy(
            workshop(MODEL, validation=few, say=lines.append)
        )
    with pytest.raises(ValueError, match="images of at least 2 x 2 pixels, got 1 x 9"):
        defenses.get("autoencoder").check_data((1, 1, 9), 1000)
    defenses.get("autoencoder").check_data((1, 2, 2), 1)
    assert lines == []


def test_what_it_says_of_itself():
    plain, refusing = defenses.get("autoencoder"), defenses.get("autoencoder:fpr=0.05")
    assert (plain.masking, plain.randomness, plain.rejection) == ("", "", "")
    assert refusing.rejection == "a reconstruction error above a threshold"
    assert plain.adaptive == refusing.adaptive == "white-box"
    attack = attacks.get("pgd")
    assert modes_of(attack, plain, oblivious=True) == ("oblivious", "white-box")


# --- deployed ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def deploy(workshop, cache):
    def make(keys, **changes):
        spec = f"autoencoder:epochs=20{keys}"
        return defenses.get(spec).deploy(workshop(MODEL, cache=cache, **changes))

    return make


def test_it_reconstructs_better_than_the_mean_image(deploy, digits):
    coder = deploy("").predict.transform
    x, mean = digits.test.images(slice(None)), digits.train.images(slice(None)).mean(0)
    with torch.no_grad():
        error = float(F.mse_loss(coder(x), x))
    # Measured: 0.022 and 0.072.
    assert error < float(F.mse_loss(mean.expand_as(x), x)) / 2


def test_the_net_sees_what_the_autoencoder_makes(deploy, digits):
    defended = deploy("")
    x = digits.test.images(slice(0, 9))
    pipeline = defended.predict
    assert isinstance(pipeline, Behind)
    assert defended.surrogate is pipeline
    assert defended.inside is pipeline.net
    assert torch.equal(pipeline(x), pipeline.net(pipeline.transform(x)))
    assert (defended.passes, defended.score) == (2, None)


def test_gradients_flow_through_both(deploy, digits):
    pipeline = deploy("").predict
    x, step = digits.test.images(slice(0, 1)).double(), 1e-5
    whole = pipeline.double()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(whole(leaf)[0, 3], leaf)
    moved = torch.zeros_like(x)
    moved[0, 0, 3, 4] = step
    with torch.no_grad():
        slope = (whole(x + moved)[0, 3] - whole(x - moved)[0, 3]) / (2 * step)
    assert gradient[0, 0, 3, 4] == pytest.approx(float(slope), rel=1e-5)
    assert gradient[0, 0, 3, 4] != 0


def test_a_classifier_can_be_trained_behind_it(deploy):
    clean, other = deploy(""), deploy(",train=transformed")
    assert other.inside is None
    same = zip(
        clean.predict.transform.parameters(), other.predict.transform.parameters(), strict=True
    )
    assert all(torch.equal(one, two) for one, two in same)
    one, two = clean.predict.net[1].weight, other.predict.net[1].weight
    assert not torch.equal(one, two)


def test_another_seed_is_another_autoencoder(deploy):
    one, other = deploy("").predict, deploy(",seed=1").predict
    assert not torch.equal(one.transform[0].weight, other.transform[0].weight)
    assert torch.equal(one.net[1].weight, other.net[1].weight)


@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_it_refuses_no_more_clean_images_than_it_may(fpr, deploy, digits):
    defended = deploy(f",fpr={fpr}")
    x = digits.validation.images(slice(None))
    with torch.no_grad():
        refused = defended.predict(x).argmax(1) == 10
        errors = F.mse_loss(defended.predict.detector.coder(x), x, reduction="none")
    scores = errors.flatten(1).mean(1)
    assert int(refused.sum()) == math.floor(fpr * len(x))
    assert float(scores[refused].min()) > float(scores[~refused].max())


def test_whatever_is_no_image_it_knows_is_refused(deploy):
    defended = deploy(",fpr=0.05")
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    with torch.no_grad():
        said = defended.predict(board.float()[None, None])
        plain = deploy("").predict(board.float()[None, None])
    assert said.argmax(1).tolist() == [10]
    assert torch.equal(said[:, :10], plain), "the classifier is the same"


def test_the_threshold_trains_nothing_anew(deploy):
    lines = []
    for keys in ("", ",train=transformed"):
        deploy(keys)
        deploy(f"{keys},fpr=0.05", say=lines.append)
        deploy(f"{keys},fpr=0.2", say=lines.append)
    assert lines == []


def test_whatever_changes_it_trains_anew(workshop, cache):
    def trained(keys, **changes):
        lines = []
        shop = workshop("logreg:epochs=1", cache=cache, say=lines.append, **changes)
        defenses.get(f"autoencoder:epochs=1{keys}").deploy(shop)
        return [line for line in lines if line.startswith("training ")]

    assert len(trained("")) == 2
    what = "minimise |r(x + n) - x|^2; n normal, standard deviation"
    assert trained(",noise=0.2") == [f"training autoencoder:epochs=1: {what} 0.2"]
    assert trained(",seed=2") == [f"training autoencoder:seed=2,epochs=1: {what} 0.1"]
    assert len(trained("", fingerprint="other")) == 2, "the classifier, too"


def test_no_table_of_models_names_it():
    assert "autoencoder" not in models.names()
