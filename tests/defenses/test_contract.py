"""What every defense must keep, a table row each; and what the workshop promises them."""

import math
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch
from torch import nn

from attacks.draws import sample_ids
from attacks.pipelines import evaluation_draws, is_random, refuses, said
from defenses import get
from defenses.base import Defended
from defenses.registry import defenses
from models import checkpoint, train
from models.checkpoint import Cache
from models.registry import canonical
from models.train import Standard, TrainingFailed, accuracy


@dataclass(frozen=True)
class Row:
    """A defense's spec, the objective it stores, the least clean accuracy of a short training, the
    model whose training takes four epochs, and one that is trained at once.

    inner: where the trained net stands in the pipeline; nets: how many are trained; last: what the
    last of them is called, where it is not the model; is_net: what the objective trains is a net,
    with a log entry per epoch.
    """

    spec: str
    objective: str
    clean: float
    model: str = "cnn_small:epochs=4"
    small: str = "logreg:epochs=2"
    inner: str = ""
    nets: int = 1
    last: str = ""
    is_net: bool = True


ROWS = {
    "none": Row("none", "L(x, y)", 0.85),
    "advtrain": Row(
        "advtrain:attack=[pgd:steps=2]",
        "L(x, y) + 1 L(x_adv, y); x_adv by pgd:steps=2, linf eps 0.15, warm-up 0.4",
        0.8,
    ),
    "goodfellow": Row(
        "goodfellow",
        "0.5 L(x, y) + 0.5 L(x_adv, y); x_adv by fgsm, linf eps 0.15, warm-up 0",
        0.8,
    ),
    "madry": Row(
        "madry:attack=[pgd:steps=2]",
        "L(x_adv, y); x_adv by pgd:steps=2, linf eps 0.15, warm-up 0.4",
        0.7,
    ),
    "fast": Row(
        "fast",
        "L(x_adv, y); x_adv by one step of 1.25 eps from a random start, linf eps 0.15, warm-up 0",
        0.7,
    ),
    "free": Row(
        "free:replays=2",
        "L(x + d, y); each batch 2 times, d moved by 1 eps each time, linf eps 0.15, warm-up 0",
        0.6,
        "cnn_small:epochs=8",
    ),
    "ensemble": Row(
        "ensemble:sources=[[mlp:epochs=2]+[logreg:epochs=2]]",
        "0.5 L(x, y) + 0.5 L(x_adv, y); x_adv by fgsm, linf eps 0.15, warm-up 0, on the net and "
        "[mlp:epochs=2]+[logreg:epochs=2] in turn",
        0.8,
    ),
    "static": Row(
        "static",
        "L(x, y) over the training set and x_adv made once by fgsm, linf eps 0.15",
        0.8,
    ),
    "trades": Row(
        "trades:steps=2,rel_alpha=1.0",
        "L(x, y) + 6 KL(p(x) || p(x_adv)); x_adv by 2 steps of 1 eps on kl, linf eps 0.15, "
        "warm-up 0.4",
        0.6,
    ),
    "mart": Row(
        "mart:steps=2,rel_alpha=1.0",
        "BCE(x_adv, y) + 5 KL(p(x) || p(x_adv)) (1 - p_y(x)); x_adv by 2 steps of 1 eps on ce, "
        "linf eps 0.15, warm-up 0.4",
        0.6,
    ),
    "noise": Row(
        "noise", "L(x + n, y); n normal, standard deviation 0.25", 0.7, "mlp_relu:epochs=4"
    ),
    "noisy_input": Row("noisy_input", "L(x, y)", 0.7, "mlp_relu:epochs=4", inner="net"),
    "averaging": Row(
        "averaging:nets=2",
        "L(x, y)",
        0.75,
        "mlp_relu:epochs=4",
        nets=2,
        last="mlp_relu:seed=1,epochs=4",
    ),
    "weight_decay": Row("weight_decay", "L(x, y) + 0.005 |w|^2", 0.7, "mlp_relu:epochs=4"),
    "dropout": Row(
        "dropout",
        "L(x, y); 0.5 of the last linear layer's inputs dropped",
        0.7,
        "mlp_relu:epochs=4",
    ),
    "dropout left on": Row(
        "dropout:on=true",
        "L(x, y); 0.5 of the last linear layer's inputs dropped",
        0.7,
        "mlp_relu:epochs=4",
        inner="net",
    ),
    "distillation": Row(
        "distillation:temperature=20.0",
        "L(x, teacher(x)) at temperature 20",
        0.6,
        "cnn_small:epochs=4",
    ),
    "kwta": Row(
        "kwta",
        "L(x, y); 0.1 of each layer's activations win",
        0.6,
        "mlp_relu:epochs=4",
        "mlp_relu:epochs=2",
    ),
    "bitdepth": Row("bitdepth", "L(x, y)", 0.7, "mlp_relu:epochs=4", inner="net"),
    "threshold": Row(
        "threshold:train=transformed",
        "L(t(x), y); t by threshold:train=transformed",
        0.7,
        "mlp_relu:epochs=4",
        inner="net",
    ),
    "jpeg": Row("jpeg", "L(x, y)", 0.7, "mlp_relu:epochs=4", inner="net"),
    "median": Row("median", "L(x, y)", 0.5, "mlp_relu:epochs=4", inner="net"),
    "tv": Row(
        "tv:iterations=5", "L(t(x), y); t by tv:iterations=5", 0.7, "mlp_relu:epochs=4", inner="net"
    ),
    "autoencoder": Row("autoencoder:epochs=20", "L(x, y)", 0.6, "mlp_relu:epochs=4", inner="net"),
    "autoencoder that refuses": Row(
        "autoencoder:train=transformed,fpr=0.05,epochs=20",
        "L(t(x), y); t by autoencoder:train=transformed,epochs=20",
        0.6,
        "mlp_relu:epochs=4",
        inner="detector.net",
    ),
    "resizepad": Row(
        "resizepad:train=transformed",
        "L(t(x), y); t by resizepad:train=transformed",
        0.5,
        "mlp_relu:epochs=4",
        inner="net",
    ),
    "robust_features": Row(
        "robust_features:teacher=fast,steps=10",
        "L(x, y) over robust images: min ||g(x_r) - g(x)||_2 in [0, 1] from another image, "
        "10 l2 steps of 0.1",
        0.6,
    ),
    "nonrobust_features": Row(
        "nonrobust_features:kind=rand,steps=5",
        "L(x, y) over rand images: min L(x', t), t uniform, ||x' - x||_linf <= 0.15, "
        "5 linf steps of 0.03",
        0.5,
    ),
    "detector": Row(
        "detector:attack=fgsm",
        "0.5 L(x, clean) + 0.5 L(x_adv, adversarial); x_adv by fgsm, linf eps 0.15, on the "
        "classifier",
        0.8,
    ),
    "safetynet": Row(
        "safetynet:images=200,attack=fgsm",
        "RBF SVM with penalty 10 on codes of x and x_adv; x_adv by fgsm, linf eps 0.15, on the "
        "classifier",
        0.8,
        small="mlp_relu:epochs=2",
        is_net=False,
    ),
    "purify": Row(
        "purify:steps=30,restarts=2,generator=[dcgan:updates=200]",
        "L(x, y)",
        0.2,
        "mlp_relu:epochs=4",
        "mlp_relu:epochs=2",
        inner="net",
    ),
    "purify_encoder": Row(
        "purify_encoder:generator=[dcgan:updates=200],epochs=8",
        "L(x, y)",
        0.3,
        "mlp_relu:epochs=4",
        "mlp_relu:epochs=2",
        inner="net",
    ),
    "purify_cycle": Row(
        "purify_cycle:attack=fgsm,width=8,updates=10",
        "L(x, y)",
        0.6,
        "mlp_relu:epochs=4",
        "mlp_relu:epochs=2",
        inner="net",
    ),
    "ape": Row(
        "ape:width=8,updates=10",
        "L(x, y)",
        0.6,
        "mlp_relu:epochs=4",
        "mlp_relu:epochs=2",
        inner="net",
    ),
    "smoothing": Row(
        "smoothing", "L(x + n, y); n normal, standard deviation 0.25", 0.75, inner="net"
    ),
}
MODEL = "cnn_small:epochs=4"


@pytest.fixture(scope="module", params=ROWS.values(), ids=ROWS.keys())
def row(request):
    return request.param


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def answer(pipeline, x, number=0):
    """What a pipeline says, under an evaluation draw where it takes any."""
    return said(pipeline, x, evaluation_draws(sample_ids(x), number))


def deploy(row, shop):
    return defenses.get(row.spec).at("linf", 0.15).deploy(shop)


@pytest.fixture(scope="module")
def deployed(row, workshop, tmp_path_factory):
    """A pipeline trained once, its workshop, and the lines that were said."""
    lines = []
    cache = Cache(tmp_path_factory.mktemp("cache"))
    shop = workshop(row.model, cache=cache, say=lines.append)
    return deploy(row, shop), shop, lines


def test_a_pipeline_predicts_logits_in_eval_mode(row, deployed, digits):
    defended, _, _ = deployed
    assert isinstance(defended, Defended)
    x = digits.test.images(slice(0, 7))
    with torch.no_grad():
        for pipeline in (defended.predict, defended.surrogate):
            logits = answer(pipeline, x)
            assert logits.shape == (7, 10 + refuses(pipeline))
            assert logits.dtype == torch.float32
            assert logits.isfinite().all()
            assert torch.equal(logits, answer(pipeline, x)), "nothing else is drawn"
            torch.testing.assert_close(answer(pipeline, x[3:5]), logits[3:5])
            other = answer(pipeline, x, 1)
            assert torch.equal(logits, other) is not is_random(pipeline)
    recipe = defenses.get(row.spec)
    assert defended.random is bool(recipe.randomness)
    assert is_random(defended.surrogate) is defended.random
    assert refuses(defended.predict) is refuses(defended.surrogate) is bool(recipe.rejection)
    assert (defended.certify is not None) is bool(recipe.certifies)
    assert isinstance(defended.predict, nn.Module)
    assert not any(module.training for module in defended.predict.modules())


def test_a_pipeline_has_learned(row, deployed, digits):
    x, y = digits.test.images(slice(None)), digits.test.y
    with torch.no_grad():
        said = answer(deployed[0].predict, x)
    assert (said.argmax(1) == y).float().mean() >= row.clean


def test_an_exact_surrogate_has_the_values_of_the_pipeline(row, deployed, digits):
    defended, _, _ = deployed
    x = digits.test.images(slice(0, 16))
    with torch.no_grad():
        same = torch.equal(answer(defended.surrogate, x), answer(defended.predict, x))
    assert same or not defended.exact
    assert defended.surrogate is defended.predict or defenses.get(row.spec).masking


def test_gradients_reach_the_images(row, deployed, digits):
    x = digits.test.images(slice(0, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(answer(deployed[0].surrogate, x)[:, 0].sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_provenance_says_what_was_trained(row, deployed):
    defended, shop, lines = deployed
    (trained,) = shop.trained
    facts = trained.facts()
    net = defended.predict.get_submodule(row.inner)
    assert facts["weights"] == checkpoint.digest(net.state_dict())
    assert facts["objective"] == row.objective
    assert canonical(facts), "plain values"
    if not row.is_net:
        assert facts["training_seconds"] > 0
        assert lines[-1] == f"training {row.objective}"
        return
    assert [entry["epoch"] for entry in facts["training_log"]] == [1, 2, 3, 4] * row.nets
    assert all(math.isfinite(entry["loss"]) for entry in facts["training_log"])
    seconds = sum(entry["seconds"] for entry in facts["training_log"])
    assert facts["training_seconds"] == pytest.approx(seconds, abs=1e-3)
    # Sources come before, and what learns from the net's mistakes after.
    at = lines.index(f"training {row.last or row.model}: minimise {row.objective}")
    epochs = [line.split(":")[0] for line in lines[at + 1 : at + 5]]
    assert epochs == [f"epoch {i}/4" for i in (1, 2, 3, 4)]


def test_a_second_deployment_is_read_from_the_cache(row, deployed, workshop, monkeypatch):
    defended, shop, _ = deployed
    monkeypatch.setattr(train, "fit", lambda *_, **__: pytest.fail("it was trained again"))
    lines = []
    again = workshop(row.model, cache=shop.cache, say=lines.append)
    net = deploy(row, again).predict
    assert equal(weights(net), weights(defended.predict))
    assert not net.training
    assert lines == []
    assert again.trained == shop.trained, "the same facts, the log among them"


def test_training_is_repeatable(row, deployed, workshop):
    again = workshop(row.model)
    assert equal(weights(deploy(row, again).predict), weights(deployed[0].predict))
    assert again.trained[0].weights == deployed[1].trained[0].weights


def test_another_seed_is_another_net(row, deployed, workshop):
    other = deploy(
        row, workshop(f"{row.model.partition(':')[0]}:epochs=1,seed=1", cache=deployed[1].cache)
    )
    assert not equal(weights(other.predict), weights(deployed[0].predict))


def test_a_corrupt_cache_is_trained_again_with_a_warning(row, deployed, workshop, tmp_path):
    cache = Cache(tmp_path)
    first = workshop(row.small, cache=cache)
    before = weights(deploy(row, first).predict)
    paths = list((tmp_path / "weights").iterdir())
    for path in paths:
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    lines = []
    shop = workshop(row.small, cache=cache, say=lines.append)
    with pytest.warns(UserWarning, match="corrupt and will be trained again"):
        net = deploy(row, shop).predict
    assert sum(line.startswith("training ") for line in lines) == len(paths)
    assert equal(weights(net), before)
    assert all(cache.get(path.stem) is not None for path in paths), "and kept"


def test_an_interrupted_training_goes_on_to_the_same_weights(
    row, deployed, workshop, tmp_path, monkeypatch
):
    run_epoch = train._Course.run_epoch

    def interrupted(self, state):
        if self.epochs == 4 and state.epoch == 2:
            raise KeyboardInterrupt
        run_epoch(self, state)

    cache = Cache(tmp_path)
    monkeypatch.setattr(train._Course, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy(row, workshop(row.model, cache=cache))
    assert len(list((tmp_path / "unfinished").iterdir())) == 1
    monkeypatch.undo()
    lines = []
    shop = workshop(row.model, cache=cache, say=lines.append)
    assert equal(weights(deploy(row, shop).predict), weights(deployed[0].predict))
    assert "going on after epoch 2/4" in lines
    assert list((tmp_path / "unfinished").iterdir()) == []
    assert shop.trained[0].weights == deployed[1].trained[0].weights


def test_without_training_data_nothing_can_be_trained(row, workshop):
    for missing in ("train", "validation"):
        with pytest.raises(ValueError, match="this dataset has no training split"):
            deploy(row, workshop(row.model, **{missing: None}))


def test_a_recipe_is_the_same_for_a_digest_however_it_is_written(row):
    defense = defenses.get(row.spec)
    assert get(row.spec) == defense, "the name of Python's users"
    assert defense.to_spec() == row.spec
    assert defenses.get(defense.to_spec()).identity() == defense.identity()
    assert canonical(defense.at("linf", 0.15).identity())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_model_learns_digits(workshop, digits, seed):
    # Measured over seeds 0 to 4: 98.2 to 98.8 %.
    net = defenses.get("none").deploy(workshop(f"cnn_small:seed={seed}")).predict
    assert accuracy(net, digits.test) >= 0.97


# --- given models --------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path, workshop):
    """A file of weights that no training made."""
    net = workshop("logreg:seed=9").net()
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(net.state_dict(), file)
    return net, file


def test_a_model_with_weights_is_evaluated_as_given(workshop, given):
    net, file = given
    lines = []
    shop = workshop(f"logreg:weights={file}", train=None, validation=None, say=lines.append)
    made = deploy(ROWS["none"], shop)
    assert equal(weights(made.predict), weights(net))
    assert not made.predict.training
    assert lines == []
    facts = shop.trained[0].facts()
    assert facts["weights"] == checkpoint.digest(net.state_dict())
    assert (facts["objective"], facts["training_log"], facts["training_seconds"]) == ("", [], 0)


def test_a_factory_of_the_users_own_is_evaluated_as_given(workshop, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))\n"
    )
    lines = []
    shop = workshop(f"{tmp_path}/net.py:make:seed=3", say=lines.append)
    net = deploy(ROWS["none"], shop).predict
    assert not any(module.training for module in net.modules())
    assert equal(weights(net), weights(shop.model.build(shop.shape, shop.classes)))
    assert lines == []


def test_a_defense_that_trains_starts_from_the_weights_given(workshop, given):
    _, file = given
    shop = workshop(f"logreg:weights={file},epochs=1,lr=1e-30")
    net = shop.fit(Standard(), "a test")
    assert all(
        torch.allclose(value, given[0].state_dict()[name], atol=1e-6)
        for name, value in net.state_dict().items()
    )


# --- keys of the cache ---------------------------------------------------------------------------


def key_of(shop, identity="a test"):
    """The key that a training would be kept under."""
    keys = []

    class Asked(Cache):
        def get(self, key):
            keys.append(key)
            raise TrainingFailed("enough")

    shop.cache = Asked(None)
    with pytest.raises(TrainingFailed, match="enough"):
        shop.fit(Standard(), identity)
    return keys[0]


def test_whatever_changes_weights_changes_their_key(workshop, digits, monkeypatch, tmp_path):
    def factory(name, gain):
        path = tmp_path / name / "net.py"
        path.parent.mkdir()
        (path.parent / "gain").write_text(str(gain))
        path.write_text(
            "import torch, pathlib\n"
            "def make():\n"
            "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
            "    gain = float(pathlib.Path(__file__).with_name('gain').read_text())\n"
            "    torch.nn.init.constant_(net[1].weight, gain)\n"
            "    return net\n"
        )
        return f"{path}:make"

    shops = {
        "plain": workshop("logreg"),
        "another net": workshop("mlp"),
        "another seed": workshop("logreg:seed=1"),
        "another lr": workshop("logreg:lr=0.1"),
        "other epochs": workshop("logreg:epochs=3"),
        "other data": workshop("logreg", fingerprint="other"),
        "other numerics": workshop("logreg", numerics={"threads": 2}),
        "a file": workshop(factory("one", 1.0)),
        "a file that reads other weights": workshop(factory("two", 2.0)),
    }
    keys = {name: key_of(shop) for name, shop in shops.items()}
    keys["another objective"] = key_of(shops["plain"], "another")
    monkeypatch.setattr(train, "REVISION", 99)
    keys["another revision of the loop"] = key_of(shops["plain"])
    assert len(set(keys.values())) == len(keys)
    monkeypatch.undo()
    assert key_of(workshop("logreg", say=print)) == keys["plain"]
    assert key_of(workshop(factory("three", 1.0))) == keys["a file"], "the content counts"


def test_training_that_failed_is_not_kept(workshop, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise TrainingFailed("it collapsed")

    monkeypatch.setattr(train, "fit", fail)
    shop = workshop(MODEL, cache=Cache(tmp_path))
    with pytest.raises(TrainingFailed, match="it collapsed"):
        deploy(ROWS["none"], shop)
    assert list(tmp_path.rglob("*.*")) == []
    assert shop.trained == []
