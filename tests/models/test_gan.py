"""The GAN loop: who stands still when, what equal arguments give, going on, and failing."""

import copy
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from models import gan, generators
from models.checkpoint import Partial
from models.contests import Sampling
from models.games import Clipped, Game, LeastSquares, NonSaturating, Saturating, Wasserstein
from models.gan import GanFailed, Settings, fit
from models.generators import Generator
from models.priors import PRIORS
from models.seeding import seeded
from models.split import Split
from models.train import TrainingFailed

SHAPE = (1, 8, 8)
SETTINGS = Settings(updates=6, batch=5, critic=2, lr=1e-3, ema=0.9, seed=3)
TRAIN = Split(
    torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(9)), torch.arange(20) % 3
)


def players(seed=0):
    with seeded(seed):
        made = Generator(generators.dcgan(SHAPE, 6, 2), 6, "normal", SHAPE)
        return made, generators.dcgan_discriminator(SHAPE, 2)


def contest(game, **keywords):
    return Sampling(TRAIN.x, None, game, SETTINGS.batch, **keywords)


class Blind(Sampling):
    """A contest that does not look."""

    def slopes(self, players):
        return torch.zeros(2)


def weights(net):
    return copy.deepcopy(net.state_dict())


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def trained(settings=SETTINGS, game=None, **keywords):
    made, against = players()
    log = fit(made, against, contest(game or Wasserstein(10.0)), settings, **keywords).log
    return made, against, log


class Memory:
    """A place for one state, in memory."""

    def __init__(self):
        self.held, self.writes = None, 0

    def read(self):
        return copy.deepcopy(self.held)

    def write(self, tensors, facts):
        self.held = copy.deepcopy((dict(tensors), dict(facts)))
        self.writes += 1


@dataclass
class Watched(Game):
    """A game that writes down what each side is shown and how both nets stand."""

    inner: object
    made: nn.Module
    against: nn.Module
    turns: list = field(default_factory=list)
    stand: list = field(default_factory=list)
    text: str = "watched"

    def discriminator(self, net, turn):
        assert all(p.requires_grad for p in self.against.parameters())
        assert not turn.fake.requires_grad, "made images are detached"
        self.turns.append(turn)
        self.stand.append(("D", weights(self.made), weights(self.against)))
        return self.inner.discriminator(net, turn)

    def generator(self, scores):
        assert scores.requires_grad
        assert not any(p.requires_grad for p in self.against.parameters())
        self.stand.append(("G", weights(self.made), weights(self.against)))
        return self.inner.generator(scores)


@pytest.fixture(params=[Wasserstein(10.0), NonSaturating(0.1)], ids=["wasserstein", "entropy"])
def watched(request):
    """A training that was looked at: the game, what entered the generator, both nets."""
    made, against = players()
    game, entered = Watched(request.param, made, against), []
    hook = made.net.register_forward_pre_hook(
        lambda net, given: entered.append(given[0].clone()) if net.training else None
    )
    fit(made, against, Blind(TRAIN.x, None, game, 5), replace(SETTINGS, updates=4))
    hook.remove()
    return game, entered, against


# --- who stands still when -----------------------------------------------------------------------


def test_each_side_moves_in_its_own_step_alone(watched):
    game, _, against = watched
    assert [who for who, _, _ in game.stand] == ["D", "D", "G"] * 4
    ends = [*game.stand[1:], ("end", None, weights(against))]
    for (who, made, judge), (_, made_after, judge_after) in zip(game.stand, ends, strict=True):
        if who == "D":
            assert equal(made, made_after), "the generator stands still"
            assert not equal(judge, judge_after)
        else:
            assert equal(judge, judge_after), "the discriminator stands still"
            assert made_after is None or not equal(made, made_after)


def test_only_latents_enter_the_generator_fresh_ones_each_time(watched):
    _, entered, _ = watched
    assert [z.shape for z in entered] == [(5, 6)] * 12  # two for D, one for G, in four updates
    assert len({z.numpy().tobytes() for z in entered}) == 12


def test_turns_hold_training_images_and_count_the_steps(watched):
    game, _, _ = watched
    known = {image.numpy().tobytes() for image in TRAIN.x}
    for turn in game.turns:
        assert all(image.numpy().tobytes() in known for image in turn.real)
        assert turn.fake.shape == turn.real.shape == (5, *SHAPE)
        assert ((turn.mix >= 0) & (turn.mix < 1)).all()
    assert [turn.update for turn in game.turns] == list(range(8))


def test_a_training_ends_with_averaged_weights_in_eval_mode():
    kept, steps = [], []

    @dataclass(frozen=True)
    class Noted(Wasserstein):
        def discriminator(self, net, turn):
            if len(steps) % SETTINGS.critic == 0:
                kept.append(weights(made))
            steps.append(1)
            return super().discriminator(net, turn)

    made, against = players()
    keep = Memory()
    fit(made, against, contest(Noted(10.0)), SETTINGS, keep=keep)
    last = {
        name.removeprefix("generator/"): value
        for name, value in keep.held[0].items()
        if name.startswith("generator/")
    }
    average = kept[0]
    for update, now in enumerate([*kept[1:], last]):
        share = min(SETTINGS.ema, (1 + update) / (10 + update))
        average = {name: share * average[name] + (1 - share) * now[name] for name in now}
    assert not made.training
    for name, value in made.state_dict().items():
        assert torch.allclose(value, average[name], atol=1e-6)
    assert not equal(made.state_dict(), last)


# --- repeatability -------------------------------------------------------------------------------


GAMES = [
    Wasserstein(10.0),
    Clipped(0.01),
    NonSaturating(0.1),
    Saturating(0.1),
    LeastSquares(0.1),
]


@pytest.mark.parametrize("game", GAMES)
def test_equal_arguments_give_equal_weights_bit_for_bit(game):
    one, judge, log = trained(game=game)
    before = torch.get_rng_state()
    with seeded(123):
        torch.rand(7)  # whatever ran before makes no difference
        other, other_judge, other_log = trained(game=game)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(one.state_dict(), other.state_dict())
    assert equal(judge.state_dict(), other_judge.state_dict())
    assert timeless(log) == timeless(other_log)
    assert not equal(one.state_dict(), trained(replace(SETTINGS, seed=4), game)[0].state_dict()), (
        "another seed"
    )


def timeless(log):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in log]


def test_the_log_holds_means_since_the_entry_before():
    _, _, log = trained(replace(SETTINGS, updates=81))
    assert [entry["update"] for entry in log] == [*range(3, 82, 3)]
    names = {"update", "loss_d", "loss_g", "d_real", "d_fake", "seconds"}
    names |= {"slope_saturating", "slope_nonsaturating"}
    assert all(set(entry) == names for entry in log)
    # Of the Wasserstein game: the generator's loss is -D(G(z)) of other noise.
    for entry in log:
        assert entry["loss_g"] == pytest.approx(-entry["d_fake"], abs=0.1)
        assert all(map(math.isfinite, entry.values()))


def test_no_update_leaves_the_generator_as_it_was():
    made, against = players()
    before = weights(made)
    trained = fit(made, against, contest(Wasserstein(10.0)), replace(SETTINGS, updates=0))
    assert (trained.log, trained.album) == ([], {})
    assert equal(made.state_dict(), before)


# --- going on ------------------------------------------------------------------------------------


def interrupting(after):
    said = []

    def say(text):
        said.append(text)
        if len(said) == after:
            raise KeyboardInterrupt

    return say


@pytest.mark.parametrize("game", [Wasserstein(10.0), Clipped(0.01), NonSaturating(0.1)])
@pytest.mark.parametrize("after", [2, 4, 6])
def test_an_interrupted_training_goes_on_to_the_same_weights(game, after, tmp_path):
    whole, judge, log = trained(game=game)
    keep = Partial(tmp_path / "state.safetensors")
    with pytest.raises(KeyboardInterrupt):
        trained(game=game, say=interrupting(after), keep=keep)
    said = []
    again, again_judge, again_log = trained(game=game, say=said.append, keep=keep)
    # An entry is told before it is put down.
    assert said[0] == f"going on after update {after - 1}/6"
    assert len(said) == 1 + 6 - (after - 1)
    assert equal(whole.state_dict(), again.state_dict())
    assert equal(judge.state_dict(), again_judge.state_dict())
    assert timeless(log) == timeless(again_log)


def test_a_finished_training_goes_on_to_itself_and_another_format_counts_for_nothing():
    keep = Memory()
    whole, _, log = trained(keep=keep)
    assert keep.writes == 6
    again, _, again_log = trained(keep=keep)
    assert equal(whole.state_dict(), again.state_dict())
    assert again_log == log
    keep.held[1]["format"] = -1
    assert timeless(trained(keep=keep)[2]) == timeless(log)
    assert keep.writes == 12


# --- failing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Breaking(Wasserstein):
    """A game whose discriminator or generator returns NaN from the k-th update on."""

    first: int = 0
    side: str = "discriminator"
    seen: list = field(default_factory=list)

    def discriminator(self, net, turn):
        loss, scores = super().discriminator(net, turn)
        self.seen.append(turn.update // SETTINGS.critic)
        broken = self.side == "discriminator" and self.seen[-1] >= self.first
        return loss * (math.nan if broken else 1), scores

    def generator(self, scores):
        broken = self.side == "generator" and self.seen[-1] >= self.first
        return super().generator(scores) * (math.nan if broken else 1)


@pytest.mark.parametrize("side", ["discriminator", "generator"])
@pytest.mark.parametrize("first", [0, 3])
def test_a_training_that_diverges_ends_with_the_last_good_generator(first, side):
    message = rf"diverged by update {first + 1}; the last good generator is of update {first}$"
    with pytest.raises(GanFailed, match=message) as failed:
        trained(game=Breaking(10.0, first, side))
    assert isinstance(failed.value, TrainingFailed)
    assert failed.value.update == first
    good = players()[0] if first == 0 else trained(replace(SETTINGS, updates=first))[0]
    assert equal(failed.value.weights, good.state_dict())


def test_weights_that_are_not_finite_end_a_training_though_its_losses_were():
    @dataclass(frozen=True)
    class Steep(Wasserstein):
        """A finite loss with a gradient that is not."""

        def generator(self, scores):
            return super().generator(scores) + (scores * 0).abs().sqrt().sum()

    with pytest.raises(GanFailed, match="diverged by update 1;") as failed:
        trained(replace(SETTINGS, updates=1), Steep(10.0))
    assert equal(failed.value.weights, players()[0].state_dict())


@dataclass(frozen=True)
class Won(NonSaturating):
    """The discriminator has won from an update on."""

    first: int = 2
    until: int = 99

    def is_won(self, entry):
        return self.first < entry["update"] <= self.until


def test_a_discriminator_that_has_won_for_two_entries_ends_a_training():
    message = "stopped at update 4: the generator's gradient is at 0; .* of update 3$"
    with pytest.raises(GanFailed, match=message) as failed:
        trained(game=Won(0.1))
    good, _, _ = trained(replace(SETTINGS, updates=3), Won(0.1))
    assert equal(failed.value.weights, good.state_dict())


def test_one_entry_at_0_is_no_end():
    assert len(trained(game=Won(0.1, 2, 3))[2]) == 6


def test_every_prior_is_played_with():
    for prior in PRIORS:
        made, against = players()
        made.prior = PRIORS[prior]
        entered = []
        made.net.register_forward_pre_hook(lambda _, given, seen=entered: seen.append(given[0]))
        fit(made, against, contest(Wasserstein(10.0)), replace(SETTINGS, updates=1))
        edge = math.sqrt(3 / 6)
        is_confined = all((z.abs() <= edge + 1e-6).all() for z in entered)
        assert is_confined is (prior == "uniform")


def test_the_revision_is_pinned():
    # Raise it with a change that moves trained weights.
    assert gan.REVISION == 1
