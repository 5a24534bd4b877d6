"""Points from other models: ensemble adversarial training and static augmentation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks import loop, norms
from attacks.pgd import Pgd
from attacks.threat import ThreatModel
from defenses import static
from defenses.ensemble import Ensemble
from defenses.registry import defenses
from models import checkpoint, train
from models.checkpoint import Cache
from models.recipes import Several
from models.registry import models
from models.train import Batch, Standard

SOURCES = "ensemble:sources=[[logreg:seed=5,epochs=1]+[mlp:epochs=1]]"


def frozen(net):
    return checkpoint.digest(net.state_dict())


# --- ensemble ------------------------------------------------------------------------------------


@pytest.fixture
def crafted(monkeypatch):
    """The models that points were crafted on, in training."""
    seen, craft = [], loop.craft

    def watched(attack, predict, task, *, steps):
        assert not any(module.training for module in predict.modules())
        seen.append(predict)
        return craft(attack, predict, task, steps=steps)

    monkeypatch.setattr(loop, "craft", watched)
    return seen


def test_each_source_takes_its_turn(workshop, crafted):
    shop = workshop("logreg:epochs=1,batch=146")  # 8 updates
    recipe = defenses.get(SOURCES).at("linf", 0.15)
    made = recipe.objective(0.15, "linf", shop)
    before = [frozen(net) for net in made.sources]
    crafted.clear()
    net = shop.fit(made, "a test")
    training = crafted[:8]
    one, other = made.sources
    expected = [net, one, other, net, one, other, net, one]
    assert all(found is wanted for found, wanted in zip(training, expected, strict=True))
    assert [frozen(net) for net in made.sources] == before, "they stay as they are"
    assert all(not module.training for source in made.sources for module in source.modules())


@pytest.mark.parametrize("update", [0, 1, 2, 5])
def test_the_loss_by_hand(update, workshop, digits):
    shop = workshop("logreg:epochs=1")
    made = defenses.get(f"{SOURCES},alpha=0.25").objective(0.1, "linf", shop)
    net = shop.net()
    x, y = digits.train.images(slice(0, 8)), digits.train.y[:8]
    model = [net, *made.sources][update % 3]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    x_adv = (x + 0.1 * gradient.sign()).clamp(0, 1)
    expected = 0.25 * F.cross_entropy(net(x), y) + 0.75 * F.cross_entropy(net(x_adv), y)
    batch = Batch(x, y, torch.arange(8), 0, 0.0, update)
    torch.testing.assert_close(made.loss(net, batch), expected)


def test_sources_are_trained_once_and_are_those_of_the_undefended_model(workshop, tmp_path):
    lines = []
    cache = Cache(tmp_path)
    shop = workshop("logreg:epochs=1", cache=cache, say=lines.append)
    defenses.get(SOURCES).at("linf", 0.15).deploy(shop)
    started = [line for line in lines if line.startswith("training ")]
    assert [line.split(":")[0] for line in started] == [
        "training logreg",
        "training mlp",
        "training logreg",
    ]
    assert len(shop.trained) == 1, "the defended model alone"
    lines.clear()
    none = defenses.get("none")
    source = none.deploy(workshop("logreg:seed=5,epochs=1", cache=cache, say=lines.append)).predict
    assert lines == []
    defenses.get(f"{SOURCES},alpha=0.3").at("linf", 0.15).deploy(shop)
    assert sum(line.startswith("training ") for line in lines) == 1
    assert isinstance(source, nn.Module)


def test_other_weights_of_a_source_are_another_training(workshop, tmp_path, monkeypatch):
    keys = []
    cache = Cache(tmp_path)
    put = Cache.put
    monkeypatch.setattr(
        Cache, "put", lambda self, key, *rest: keys.append(key) or put(self, key, *rest)
    )
    recipe = Ensemble(sources=Several((models.get("logreg:epochs=1"),))).at("linf", 0.15)
    recipe.deploy(workshop("logreg:seed=9,epochs=1", cache=cache))
    monkeypatch.setattr(Ensemble, "objective", _with_a_changed_source(Ensemble.objective))
    recipe.deploy(workshop("logreg:seed=9,epochs=1", cache=cache))
    assert len(keys) == len(set(keys)) == 3


def _with_a_changed_source(objective):
    def changed(self, *args):
        made = objective(self, *args)
        with torch.no_grad():
            next(made.sources[0].parameters()).add_(1)
        return made

    return changed


def test_sources_are_written_as_they_are_read():
    for text in ("mlp", "[cnn_small:seed=1]+mlp", "logreg:seed=2"):
        assert Several.from_spec(text).to_spec() == text
    assert defenses.get("ensemble").to_spec() == "ensemble"
    spec = "ensemble:sources=[[cnn_small:seed=1]+mlp],alpha=0.25"
    assert defenses.get(spec).to_spec() == spec
    assert defenses.get(spec).identity() != defenses.get("ensemble").identity()
    with pytest.raises(ValueError, match="no model 'mpl'; did you mean 'mlp'"):
        defenses.get("ensemble:sources=mpl")
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\), got 1\.0"):
        defenses.get("ensemble:alpha=1")


# --- static --------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A model that counts the samples it is asked about."""

    def __init__(self, net):
        super().__init__()
        self.net, self.rows = net, 0

    def forward(self, x):
        self.rows += len(x)
        return self.net(x)


@pytest.mark.parametrize(("attack", "steps"), [("fgsm", 1), ("pgd:steps=3", 3)])
def test_examples_are_crafted_once(attack, steps, workshop, digits):
    shop = workshop("logreg:epochs=1")
    source = Counting(shop.undefended()).eval()
    recipe = defenses.get(f"static:attack=[{attack}]").at("linf", 0.15)
    grown = recipe.augmented(source, digits.train, 0.15, "linf", shop)
    count = len(digits.train)
    assert source.rows == steps * count, "a query per image and step"
    x, x_adv = grown.x[:count], grown.x[count:]
    assert torch.equal(x, digits.train.images(slice(None)))
    assert torch.equal(grown.y, torch.cat([digits.train.y, digits.train.y]))
    assert norms.inside(x_adv, x, torch.full((count,), 0.15), "linf").all()


def test_the_examples_are_what_the_attack_makes(workshop, digits):
    shop = workshop("logreg:epochs=1")
    source = shop.undefended()
    recipe = defenses.get("static").at("linf", 0.15)
    few = digits.train.take(torch.arange(200))
    grown = recipe.augmented(source, few, 0.15, "linf", shop)
    x, y = few.images(slice(None)), few.y
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(source(leaf), y, reduction="sum"), leaf)
    expected = (x + 0.15 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(grown.x[200:], expected, rtol=0, atol=1e-6)


def test_it_is_plain_training_on_the_doubled_set(workshop, digits):
    for model in ("cnn_small:epochs=2", "logreg:lr=0.01"):
        shop = workshop(model)
        defense = defenses.get("static").at("linf", 0.15)
        defense.deploy(shop)
        plain = workshop(model)
        source = plain.undefended()
        grown = defense.augmented(source, digits.train, 0.15, "linf", plain)
        doubled = workshop(model, train=grown)
        doubled.fit(Standard(), "a test")
        assert shop.trained[0].weights == doubled.trained[0].weights
        assert len(shop.trained) == 1


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.15), ("l2", 0.7)])
def test_its_log_tells_accuracy_under_the_check(norm, eps, workshop, digits):
    shop = workshop("cnn_small:epochs=1")
    net = defenses.get("static:seed=3").at(norm, eps).deploy(shop).predict
    (entry,) = shop.trained[0].log
    x, y = digits.validation.images(slice(None)), digits.validation.y
    x_adv = Pgd(steps=10)(net, x, y, ThreatModel(norm, eps), seed=3, shape=128)
    assert entry["clean"] == entry["score"] == (net(x).argmax(1) == y).double().mean()
    assert entry["robust"] == (net(x_adv).argmax(1) == y).double().mean()


def test_a_cached_net_needs_no_examples(workshop, tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    defense = defenses.get("static").at("linf", 0.15)
    defense.deploy(workshop("logreg:epochs=1", cache=cache))
    monkeypatch.setattr(static.loop, "craft", lambda *_, **__: pytest.fail("crafted again"))
    monkeypatch.setattr(train, "fit", lambda *_, **__: pytest.fail("trained again"))
    defense.deploy(workshop("logreg:epochs=1", cache=cache))
