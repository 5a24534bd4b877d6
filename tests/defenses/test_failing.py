"""Defenses in the net and its training that are known to fail: each to the letter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks.pipelines import evaluation_draws
from defenses.distillation import AtTemperature, Distilled
from defenses.dropout import Dropping, LeftOn, dropping
from defenses.kwta import Competing, Smoothed, Winners, competing
from defenses.noise import Noise
from defenses.registry import defenses
from defenses.weight_decay import Penalised
from models import nets
from models.checkpoint import Cache, digest
from models.seeding import seeded
from models.train import Batch, Standard


def net(make=nets.mlp_relu, seed=0):
    with seeded(seed):
        return make((1, 8, 8), 10).eval()


def batch(count=6):
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.arange(count) % 10, torch.arange(count) * 7, 0, 0.0)


def gradients(objective, inner):
    return torch.autograd.grad(objective.loss(inner, batch()), list(inner.parameters()))


# --- noise, weight decay -------------------------------------------------------------------------


def test_training_on_noise_of_no_size_is_standard_training(workshop):
    shop = workshop("logreg:epochs=1")
    plain = shop.undefended().state_dict()
    for spec in ("noise:sigma=0", "weight_decay:decay=0", "dropout:rate=0"):
        assert digest(defenses.get(spec).deploy(shop).predict.state_dict()) == digest(plain)
    assert digest(Noise(0.5).deploy(shop).predict.state_dict()) != digest(plain)


def test_weight_decay_adds_the_weights_to_the_gradient():
    inner = net()
    plain, decayed = gradients(Standard(), inner), gradients(Penalised(0.3), inner)
    for before, after, weight in zip(plain, decayed, inner.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.3 * weight, rtol=1e-4, atol=1e-7)


# --- averaging -----------------------------------------------------------------------------------


def test_averaging_is_the_mean_of_the_probabilities(workshop):
    shop = workshop("logreg:epochs=1,seed=4")
    defended = defenses.get("averaging:nets=3").deploy(shop)
    members = [workshop(f"logreg:epochs=1,seed={seed}").undefended() for seed in (4, 5, 6)]
    x = batch().x
    mean = torch.stack([member(x).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(defended.predict(x).exp(), mean)
    assert torch.equal(defended.inside(x), members[0](x))
    assert defended.passes == 3
    (trained,) = shop.trained
    assert [entry["net"] for entry in trained.log] == [1, 2, 3]


def test_averaging_shares_its_first_net_with_the_undefended_model(workshop, tmp_path):
    cache = Cache(tmp_path)
    workshop("logreg:epochs=1", cache=cache).undefended()
    lines = []
    defenses.get("averaging:nets=2").deploy(
        workshop("logreg:epochs=1", cache=cache, say=lines.append)
    )
    assert [line.split(":")[0] for line in lines] == ["training logreg", "epoch 1/1"]


def test_averaging_refuses_a_model_that_is_given(workshop, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    with pytest.raises(ValueError, match="averaging needs a model to train from several seeds"):
        defenses.get("averaging").deploy(workshop(f"{tmp_path}/net.py:make"))


# --- dropout -------------------------------------------------------------------------------------


def test_dropout_off_is_the_net_bit_for_bit():
    inner, x = net(), batch().x
    for _ in range(2):
        assert torch.equal(dropping(inner, 0.5)(x), inner(x))


def test_dropout_while_training_is_torchs_in_front_of_the_last_layer():
    inner, made = net().train(), batch()
    reference = nn.Sequential(*inner[:-1], nn.Dropout(0.3), inner[-1]).train()
    with seeded(3):
        loss = Dropping(0.3).loss(inner, made)
    with seeded(3):
        expected = F.cross_entropy(reference(made.x), made.y)
    assert torch.equal(loss, expected)


def test_dropout_left_on_drops_by_the_draws():
    inner, x = net(), batch().x
    pipeline = LeftOn(inner, 0.25).eval()
    draws = evaluation_draws(torch.arange(6), 1)
    features = inner[:-1](x)
    kept = draws.uniform(features.shape, "dropout") >= 0.25
    expected = inner[-1](features * kept / 0.75)
    assert torch.equal(pipeline(x, draws), expected)
    assert 0.7 < kept.float().mean() < 0.8
    assert torch.equal(pipeline.net(x), inner(x)), "outside a prediction nothing is dropped"
    assert list(pipeline.net.state_dict()) == list(inner.state_dict())


def test_dropout_on_and_off_are_one_training(workshop, tmp_path):
    shop = workshop("logreg:epochs=1", cache=Cache(tmp_path))
    off = defenses.get("dropout").deploy(shop)
    shop.say = pytest.fail
    on = defenses.get("dropout:on=true").deploy(shop)
    x = batch().x
    assert torch.equal(on.inside(x), off.predict(x))
    assert (off.random, on.random) == (False, True)
    assert (defenses.get("dropout").adaptive, defenses.get("dropout:on=true").adaptive) == (
        "white-box",
        "eot",
    )


# --- distillation --------------------------------------------------------------------------------


def test_the_objectives_of_teacher_and_student_by_hand():
    student, teacher, made = net(), net(seed=1).train(), batch()
    log = (student(made.x) / 20).log_softmax(1)
    torch.testing.assert_close(
        AtTemperature(20.0).loss(student, made), -log[range(6), made.y].mean()
    )
    soft = (teacher(made.x) / 20).softmax(1)
    expected = -(soft * log).sum(1).mean()
    torch.testing.assert_close(Distilled(20.0, teacher).loss(student, made), expected)
    assert teacher.training, "left as found"


def test_the_surrogate_of_distillation_is_cooled(workshop):
    defended = defenses.get("distillation:temperature=8").deploy(workshop("logreg:epochs=1"))
    x = batch().x
    assert torch.equal(defended.surrogate(x) * 8, defended.predict(x)), "8 is a power of two"
    assert defended.exact is False


# --- k winners -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "k"), [(0.1, 5), (0.5, 24), (1.0, 48), (0.001, 1)])
def test_k_activations_win(share, k):
    x = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    made = Winners(share)(x)
    assert ((made != 0).flatten(1).sum(1) == k).all()
    floor = x.flatten(1).sort(1).values[:, -k].view(-1, 1, 1, 1)
    assert torch.equal(made, torch.where(x >= floor, x, 0))


def test_of_equal_activations_the_first_win():
    made = Winners(0.5)(torch.tensor([[1.0, 2.0, 1.0, 1.0], [-3.0, -1.0, -2.0, -4.0]]))
    assert made.tolist() == [[1, 2, 0, 0], [0, -1, -2, 0]]


def test_the_surrogate_has_the_winners_values_and_the_gradient_of_softplus():
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made = Smoothed(0.2)(x)
    assert torch.equal(made, Winners(0.2)(x))
    (gradient,) = torch.autograd.grad(made.sum(), x)
    torch.testing.assert_close(gradient, x.detach().sigmoid())


def test_every_rectifier_is_replaced_and_the_objective_sees_it():
    inner, made = net(), batch()
    flat = made.x.flatten(1)
    for number in (1, 3):
        flat = Winners(0.1)(inner[number](flat))
    logits = inner[5](flat)
    assert torch.equal(competing(inner, Winners(0.1))(made.x), logits)
    assert torch.equal(Competing(0.1).loss(inner, made), F.cross_entropy(logits, made.y))


@pytest.mark.parametrize(
    ("spec", "model", "message"),
    [
        ("kwta", "logreg", "must have a ReLU module, Sequential has none"),
        ("kwta", "mlp", "must have a ReLU module"),
    ],
)
def test_a_net_without_the_layer_is_refused(spec, model, message, workshop):
    with pytest.raises(ValueError, match=message):
        defenses.get(spec).deploy(workshop(model))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("noise:sigma=inf", "sigma must be finite and at least 0, got inf"),
        ("averaging:nets=1", "nets must be at least 2, got 1"),
        ("weight_decay:decay=-1", "decay must be finite and at least 0, got -1"),
        ("dropout:rate=1", r"rate must be in \[0, 1\), got 1"),
        ("distillation:temperature=0.5", "temperature must be finite and at least 1, got 0.5"),
        ("kwta:share=0", r"share must be in \(0, 1\], got 0"),
    ],
)
def test_bad_values_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        defenses.get(spec)
