"""Generator recipes, and where trained generators come from: the package, the cache, a file, or a
training that goes on.
"""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from bench import data
from models import checkpoint, gan
from models import studio as studios
from models.architectures import Conditional, Dcgan, DefenseGan, Mlp
from models.checkpoint import Cache
from models.games import Wasserstein
from models.gans import Gan
from models.inversion import Inversion
from models.registry import generators as table
from models.split import Split
from models.studio import Studio, pretrained
from models.train import TrainingFailed

SHAPE = (1, 8, 8)
TINY = Dcgan(latent=6, width=2, updates=6, batch=5)
TRAIN = Split(
    torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(9)), torch.arange(20) % 3
)


@pytest.fixture
def studio(tmp_path):
    """A studio with a cache of its own that writes down what it says."""
    return Studio(
        train=TRAIN,
        shape=SHAPE,
        fingerprint="f",
        device=torch.device("cpu"),
        numerics={"threads": 1},
        cache=Cache(tmp_path / "cache"),
        say=Said(),
    )


@dataclass
class Said:
    """What was said; raises KeyboardInterrupt at one line."""

    lines: list = field(default_factory=list)
    last: int = -1

    def __call__(self, text):
        self.lines.append(text)
        if len(self.lines) == self.last:
            raise KeyboardInterrupt


def equal(one, other):
    one, other = one.generator.state_dict(), other.generator.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


# --- recipes -------------------------------------------------------------------------------------


def test_recipes_are_those_of_the_table():
    stacked = ["mlp", "dcgan", "conditional", "defensegan"]
    assert table.names() == [*stacked, "progressive", "style", "cyclegan"]
    for text in ("dcgan", "dcgan:latent=3,prior=uniform,objective=nonsaturating,updates=0"):
        assert table.get(text).to_spec() == text
        assert Gan.from_spec(text) == table.get(text)
    assert isinstance(table.get("defensegan"), DefenseGan)


def test_none_means_what_the_keys_say():
    assert Dcgan().settings(SHAPE).updates == 600
    assert Dcgan().settings((1, 28, 28)).updates == 6000
    assert Dcgan(updates=7).settings((1, 28, 28)).updates == 7
    assert Dcgan().game == Wasserstein(10.0)
    assert Dcgan(objective="nonsaturating").game.penalty == 0.1
    assert Dcgan(objective="nonsaturating", penalty=3.0).game.penalty == 3.0
    released = DefenseGan().settings((1, 28, 28))
    assert (released.batch, released.critic, released.lr) == (50, 5, 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dcgan:latent=0", "dcgan: latent must be at least 1, got 0"),
        ("dcgan:batch=0", "dcgan: batch must be at least 1, got 0"),
        ("dcgan:critic=0", "dcgan: critic must be at least 1, got 0"),
        ("dcgan:width=0", "dcgan: width must be at least 1, got 0"),
        ("defensegan:width=0", "defensegan: width must be at least 1, got 0"),
        ("dcgan:updates=-1", "dcgan: updates must be at least 0, got -1"),
        ("dcgan:penalty=-1", "dcgan: penalty must be at least 0, got -1.0"),
        ("dcgan:penalty=inf", "dcgan: penalty must be at least 0, got inf"),
        ("dcgan:noise=-1", "dcgan: noise must be at least 0, got -1.0"),
        ("dcgan:decay=nan", "dcgan: decay must be at least 0, got nan"),
        ("dcgan:pack=0", "dcgan: pack must be at least 1, got 0"),
        ("dcgan:pack=3", "dcgan: batch must be a multiple of pack, got 64 and 3"),
        ("dcgan:leak=1", "dcgan: leak must be in [0, 1), got 1.0"),
        ("conditional:classes=0", "conditional: classes must be at least 1, got 0"),
        (
            "mlp:objective=wasserstein_clip,penalty=0",
            "mlp: penalty must be above 0 with wasserstein_clip: it bounds the weights",
        ),
        ("dcgan:lr=0", "dcgan: lr must be above 0, got 0.0"),
        ("dcgan:lr=inf", "dcgan: lr must be above 0, got inf"),
        ("dcgan:ema=1", "dcgan: ema must be in [0, 1), got 1.0"),
        ("dcgan:seed=-1", "dcgan: seed must be from 0 to 2**63 - 1, got -1"),
        ("dcgan:weights=none.pt", "dcgan: weights must be a file, got none.pt"),
        (
            "dcgan:prior=cauchy",
            "dcgan: prior must be one of normal, uniform, truncated, got 'cauchy'",
        ),
        ("dcgan:latnt=3", "no key of generator 'dcgan' named 'latnt'; did you mean 'latent'"),
        ("dgan", "no generator 'dgan'; did you mean 'dcgan'"),
    ],
)
def test_bad_specs_are_refused(text, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the message is compared
        table.get(text)
    assert message in str(refused.value)


def test_whatever_changes_the_weights_is_in_the_identity():
    kept = TINY.made_of(SHAPE, "f")
    assert TINY.made_of(SHAPE, "g") != kept
    changes = {"latent": 7, "prior": "uniform", "objective": "nonsaturating", "penalty": 1.0}
    changes |= {"noise": 0.1, "decay": 0.1, "pack": 5, "leak": 0.0, "norm": "batch"}
    changes |= {"updates": 7, "batch": 6, "critic": 1, "lr": 0.1, "ema": 0.5, "seed": 1, "width": 3}
    for name, value in changes.items():
        assert replace(TINY, **{name: value}).made_of(SHAPE, "f") != kept
    # The number of updates that none means is spelt out.
    assert kept["settings"]["updates"] == "6"
    assert kept["revision"] == gan.REVISION


@pytest.mark.parametrize("objective", ["wasserstein", "nonsaturating", "wasserstein_clip"])
def test_batch_norm_is_in_a_discriminator_only_where_no_penalty_looks_at_single_images(objective):
    def norms(net):
        return sum("BatchNorm" in type(layer).__name__ for layer in net.modules())

    for recipe in (Dcgan(norm="batch"), Mlp(norm="batch", width=4), Conditional(norm="batch")):
        made = replace(recipe, objective=objective)
        assert norms(made.build(SHAPE)) == 2
        assert norms(made.opponent(SHAPE)) == (objective == "wasserstein_clip")
        assert made.is_apart == (objective == "wasserstein_clip")
        assert norms(replace(made, norm="none").opponent(SHAPE)) == 0
    assert replace(Dcgan(norm="batch"), objective="nonsaturating", penalty=0.0).is_apart


def test_a_rectifiers_slope_is_the_key_leak():
    net = Dcgan(leak=0.0, width=2).opponent(SHAPE)
    slopes = [m.negative_slope for m in net.modules() if isinstance(m, torch.nn.LeakyReLU)]
    assert slopes == [0.0, 0.0]


def test_labels_that_cannot_be_asked_for_are_refused(studio):
    for classes in (2, 4):
        recipe = Conditional(latent=6, width=2, updates=1, batch=5, classes=classes)
        message = f"classes must be those of the data, 0 to 2, got {classes}"
        with pytest.raises(ValueError, match=message):
            studio.ready(recipe)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"objective": "hinge"}, "no objective 'hinge'"),
        ({"prior": "cauchy"}, "no prior 'cauchy'"),
        ({"norm": "layer"}, "norm must be one of none, batch, got 'layer'"),
        ({"norm": "batch", "batch": 1}, "batch norm needs batches of 2, got 1"),
        (
            {"norm": "batch", "batch": 4, "pack": 4, "objective": "wasserstein_clip"},
            "batch norm needs batches of 2, got 1",
        ),
    ],
)
def test_values_that_no_spec_has_are_refused_too(keys, message):
    with pytest.raises(ValueError, match=message):
        Dcgan(**keys)


# --- the studio ----------------------------------------------------------------------------------


def test_a_trained_generator_is_cached(studio):
    first = studio.ready(TINY)
    assert first.source == "trained"
    assert [entry["update"] for entry in first.log] == [1, 2, 3, 4, 5, 6]
    assert studio.say.lines[0].startswith("training dcgan:latent=6,updates=6,batch=5,width=2: D m")
    assert first.seconds == pytest.approx(sum(entry["seconds"] for entry in first.log))
    said = len(studio.say.lines)
    second = studio.ready(TINY)
    assert second.source == "cached"
    assert len(studio.say.lines) == said
    assert equal(first, second)
    assert (first.digest, first.log) == (second.digest, second.log)
    assert first.digest == checkpoint.digest(first.generator.state_dict())
    assert not second.generator.training
    (name,) = files(studio.cache.folder)
    assert name.startswith("weights/")
    facts = checkpoint.read(studio.cache.folder / name)[1]
    assert facts["made_of"] == TINY.made_of(SHAPE, "f")
    assert Gan.from_spec(facts["spec"]) == TINY
    for other in (replace(studio, fingerprint="g"), replace(studio, numerics={"threads": 2})):
        assert other.ready(TINY).source == "trained"


def test_without_a_cache_equal_recipes_train_to_equal_weights(studio):
    bare = replace(studio, cache=None)
    one, other = bare.ready(TINY), bare.ready(TINY)
    assert (one.source, other.source) == ("trained", "trained")
    assert equal(one, other)
    assert equal(one, studio.ready(TINY))
    assert not equal(one, bare.ready(replace(TINY, seed=1)))


def test_a_forgotten_generator_is_trained_again_and_an_interrupted_one_is_not_forgotten(studio):
    first = studio.ready(TINY)
    studio.forget(TINY)
    assert files(studio.cache.folder) == []
    again = studio.ready(TINY)
    assert again.source == "trained"
    assert equal(first, again)
    other = replace(TINY, seed=1)
    with pytest.raises(KeyboardInterrupt):
        replace(studio, say=Said(last=5)).ready(other)
    studio.forget(other)
    studio.ready(other)
    assert "going on after update 3/6" in studio.say.lines
    replace(studio, cache=None).forget(TINY)


def test_an_interrupted_training_goes_on_from_the_cache(studio):
    whole = replace(studio, cache=None).ready(TINY)
    interrupted = replace(studio, say=Said(last=5))  # the head and four entries
    with pytest.raises(KeyboardInterrupt):
        interrupted.ready(TINY)
    (name,) = files(studio.cache.folder)
    assert name.startswith("unfinished/")
    studio.say.lines.clear()
    again = studio.ready(TINY)
    assert studio.say.lines[1] == "going on after update 3/6"
    assert equal(whole, again)
    (name,) = files(studio.cache.folder)
    assert name.startswith("weights/"), "the way back is gone"


@dataclass(frozen=True)
class Breaking(Dcgan):
    """Diverges at the fourth update."""

    @property
    def game(self):
        return Diverging(10.0)


@dataclass(frozen=True)
class Diverging(Wasserstein):
    def discriminator(self, net, turn):
        loss, scores = super().discriminator(net, turn)
        return loss * (math.nan if turn.update >= 6 else 1), scores


BREAKING = Breaking(latent=6, width=2, updates=6, batch=5)


def test_a_failed_training_keeps_its_last_good_generator_and_says_where(studio):
    with pytest.raises(TrainingFailed) as failed:
        studio.ready(BREAKING)
    (name,) = files(studio.cache.folder)
    path = studio.cache.folder / name
    assert name.startswith("failed/")
    assert str(failed.value) == (
        f"GAN training diverged by update 4; the last good generator is of update 3, kept as {path}"
    )
    weights, facts = checkpoint.read(path)
    assert facts["update"] == 3
    good = replace(studio, cache=None).ready(replace(TINY, updates=3)).generator.state_dict()
    assert all(torch.equal(weights[key], good[key]) for key in good)
    # It can be used as it is.
    given = studio.ready(replace(TINY, weights=str(path)))
    assert given.source == "given"


def test_a_failed_training_without_a_place_for_its_generator_fails_all_the_same(studio, tmp_path):
    with pytest.raises(TrainingFailed, match=r"of update 3$"):
        replace(studio, cache=None).ready(BREAKING)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TrainingFailed, match=r"of update 3$"):
        replace(studio, cache=Cache(blocked)).ready(BREAKING)


def test_weights_of_a_file_are_used_as_they_are(studio, tmp_path):
    made = studio.ready(TINY)
    path = tmp_path / "g.safetensors"
    checkpoint.write(path, made.generator.state_dict(), {})
    given = studio.ready(replace(TINY, weights=str(path)))
    assert (given.source, given.log, given.seconds) == ("given", [], 0.0)
    assert equal(made, given)
    with pytest.raises(ValueError, match=r"weights g\.safetensors do not load into Gen") as refused:
        studio.ready(replace(TINY, latent=7, weights=str(path)))
    assert "size mismatch for net.0.weight" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_untrained_generator_is_called_so(studio):
    recipe = replace(TINY, updates=0)
    assert recipe.is_untrained
    assert not TINY.is_untrained
    assert studio.ready(recipe).source == "untrained"
    assert not replace(recipe, weights=__file__).is_untrained


def test_there_must_be_images_to_train_on(studio):
    with pytest.raises(ValueError, match="no training split to train a generator on"):
        replace(studio, train=None).ready(TINY)


def test_a_generator_of_the_package_is_found_by_what_it_was_made_of(studio, tmp_path, monkeypatch):
    made = studio.ready(TINY)
    folder = tmp_path / "pretrained"
    monkeypatch.setattr(studios, "PRETRAINED", folder)
    assert pretrained(TINY.made_of(SHAPE, "f")) is None
    facts = {"log": made.log, "made_of": TINY.made_of(SHAPE, "f"), "spec": TINY.to_spec()}
    checkpoint.write(folder / "tiny.safetensors", made.generator.state_dict(), facts)
    bare = replace(studio, train=None, cache=None)
    found = bare.ready(TINY)
    assert found.source == "pretrained"
    assert (found.digest, found.log) == (made.digest, made.log)
    for other in (replace(TINY, seed=1), replace(TINY, updates=7)):
        with pytest.raises(ValueError, match="no training split"):
            bare.ready(other)
    with pytest.raises(ValueError, match="no training split"):
        replace(bare, has_pretrained=False).ready(TINY)


# --- the real thing ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A generator of 8 x 8 digits after 150 updates, and the digits."""
    digits = data.load("digits", None)
    place = Studio(
        digits.train,
        digits.shape,
        digits.fingerprint,
        torch.device("cpu"),
        {},
        Cache(tmp_path_factory.mktemp("gans")),
    )
    return place.ready(Dcgan(updates=150)).generator, digits


def test_a_trained_generator_inverts_its_own_samples_far_better_than_test_images(trained):
    generator, digits = trained
    own, others = generator.sample(12, 5), digits.test.images(slice(0, 12))
    inversion = Inversion(steps=100, restarts=4)
    z = generator.latents(48, 6).view(12, 4, -1)
    mine, theirs = (inversion.run(generator, x, z).error for x in (own, others))
    assert float(mine.median()) * 100 < float(theirs.median())
    assert float(mine.max()) < float(theirs.min())


def test_latents_of_own_samples_are_found_again_up_to_what_the_images_tell(trained):
    generator, _ = trained
    z = generator.latents(6, 9)
    images = generator(z).detach()
    found = Inversion(steps=400, restarts=4).run(
        generator, images, generator.latents(24, 10).view(6, 4, -1)
    )
    assert torch.allclose(found.images, images, atol=0.05)
    assert found.z.shape == z.shape


def test_the_generators_of_the_package_are_those_that_their_table_names():
    """A change of a recipe's keys or of the loop would leave them lying there unused."""
    listed = (studios.PRETRAINED / "README.md").read_text(encoding="utf-8")
    paths = list(studios.PRETRAINED.glob("*.safetensors"))
    assert paths
    for path in paths:
        weights, facts = checkpoint.read(path)
        row = next(line for line in listed.splitlines() if line.startswith(f"| {path.name} "))
        assert checkpoint.digest(weights) in row
        assert path.stat().st_size <= 3e6
        recipe = table.get(facts["spec"])
        assert recipe.made_of((1, 28, 28), facts["made_of"]["data"]) == facts["made_of"]
        assert pretrained(facts["made_of"]) is not None
        recipe.build((1, 28, 28)).load_state_dict(weights)
