"""What the steps of a GAN are made of: labels, packs, noise, and what is looked at."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from models.architectures import Conditional, Dcgan, Mlp
from models.checkpoint import Partial
from models.contests import PAGE, Sampling
from models.games import Game, NonSaturating, Wasserstein
from models.gan import Settings, fit
from models.resolutions import Progressive, Style
from models.seeding import seeded
from models.split import Split

SHAPE = (1, 8, 8)
SETTINGS = Settings(updates=3, batch=6, critic=2, lr=1e-3, ema=0.9, seed=3)
TRAIN = Split(
    torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(9)), torch.arange(20) % 3
)
CPU = torch.device("cpu")


def run(recipe, settings=SETTINGS, contest=None):
    made, against = recipe.build(SHAPE), recipe.opponent(SHAPE)
    trained = fit(made, against, contest or recipe.contest(TRAIN, CPU), settings)
    return made, against, trained


@dataclass
class Watching(Game):
    """A game that notes what it is handed."""

    turns: list = field(default_factory=list)
    text: str = "watching"

    def discriminator(self, judge, turn):
        self.turns.append((turn, judge))
        scores = torch.stack([judge(turn.real), judge(turn.fake)])
        return scores[1].mean() - scores[0].mean(), scores

    def generator(self, scores):
        return -scores.mean()


def test_both_sides_of_a_conditional_pair_are_handed_the_class_of_the_real_image():
    handed, asked = [], []
    recipe = Conditional(latent=6, width=2, classes=3, batch=6)
    made, against = recipe.build(SHAPE), recipe.opponent(SHAPE)
    against.register_forward_pre_hook(lambda _, given: handed.append(given[1].clone()))
    made.net.register_forward_pre_hook(
        lambda net, given: asked.append(given[0][:, -3:].argmax(1)) if net.training else None
    )
    game = Watching()
    fit(made, against, replace(recipe.contest(TRAIN, CPU), game=game), replace(SETTINGS, updates=1))
    known = {image.numpy().tobytes(): int(y) for image, y in zip(TRAIN.x, TRAIN.y, strict=True)}
    for number, (turn, _) in enumerate(game.turns):
        labels = [known[image.numpy().tobytes()] for image in turn.real]
        assert handed[2 * number].flatten().tolist() == labels, "of the real images"
        assert handed[2 * number + 1].flatten().tolist() == labels, "of the made ones the same"
        assert asked[number].tolist() == labels, "which were asked for"
    # In its own step the generator is judged by what its latents ask for.
    assert handed[4].flatten().tolist() == asked[2].tolist()


def test_labels_reach_the_scores_and_the_images():
    recipe = Conditional(latent=6, width=2, classes=3)
    made, against = recipe.build(SHAPE), recipe.opponent(SHAPE)
    x, zero = TRAIN.x[:4], torch.zeros(4, 1, dtype=torch.long)
    assert not torch.equal(against(x, zero), against(x, zero + 1))
    z = made.latents(4, 0)
    images = [made(made.asked(z, torch.full((4,), label))) for label in range(3)]
    assert not torch.equal(images[0], images[1])


def test_asking_for_a_class_keeps_the_prior_and_all_else():
    made = Conditional(latent=6, width=2, classes=3).build(SHAPE)
    z, wanted = made.latents(50, 0), torch.arange(50) % 3
    asked = made.asked(z, wanted)
    assert torch.equal(made.labels(asked), wanted)
    assert torch.equal(asked[:, :6], z[:, :6])
    # The same numbers in other places: what asks is drawn from the prior too.
    assert torch.equal(asked.sort(1).values, z.sort(1).values)
    already = made.labels(z) == wanted
    assert already.any()
    assert torch.equal(asked[already], z[already])
    assert torch.equal(made.of_class(wanted, 0), made(asked))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_out_of_range_is_refused(label):
    made = Conditional(latent=6, width=2, classes=3).build(SHAPE)
    with pytest.raises(ValueError, match=f"label must be from 0 to 2, got {label}"):
        made.of_class(torch.tensor([0, label]), 0)
    with pytest.raises(ValueError, match="makes no images of a class that is asked for"):
        Dcgan(width=2).build(SHAPE).of_class(torch.tensor([0]), 0)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_pack_is_judged_as_one(labelled):
    recipe = Dcgan(latent=6, width=2, batch=6, pack=3)
    if labelled:
        recipe = Conditional(latent=6, width=2, batch=6, pack=3, classes=3)
    game = Watching()
    contest = replace(recipe.contest(TRAIN, CPU), game=game)
    _, against, _ = run(recipe, contest=contest)
    turn, judge = game.turns[0]
    assert turn.real.shape == turn.fake.shape == (2, 3, 8, 8)
    assert turn.mix.shape == (2,)
    assert judge(turn.real).shape == (2,)
    if not labelled:
        # The images side by side as channels: another one of a pack moves its score.
        other = turn.real.clone()
        other[0, 2] = 0
        moved = against(turn.real) != against(other)
        assert moved.tolist() == [True, False]


def test_a_packs_labels_are_those_of_its_images_in_order():
    handed = []
    recipe = Conditional(latent=6, width=2, classes=3, batch=6, pack=3)
    made, against = recipe.build(SHAPE), recipe.opponent(SHAPE)
    against.register_forward_pre_hook(lambda _, given: handed.append(given))
    game = Watching()
    fit(made, against, replace(recipe.contest(TRAIN, CPU), game=game), replace(SETTINGS, updates=1))
    known = {image.numpy().tobytes(): int(y) for image, y in zip(TRAIN.x, TRAIN.y, strict=True)}
    x, labels = handed[0]
    images = x.view(2, 3, 1, 8, 8)
    assert [[known[image.numpy().tobytes()] for image in pack] for pack in images] == (
        labels.tolist()
    )
    # And a label reaches the plane of its own image alone.
    planes = []
    against.net[0].register_forward_pre_hook(lambda _, given: planes.append(given[0][:, 3:]))
    against(x, labels)
    for pack in range(2):
        ones = planes[0][pack].amax((1, 2)).nonzero()[:, 0]
        assert ones.tolist() == [3 * place + int(y) for place, y in enumerate(labels[pack])]


RESUMED = [
    Conditional(latent=6, width=2, classes=3, batch=6, norm="batch", pack=3, noise=0.1),
    Conditional(latent=6, width=2, classes=3, batch=6, norm="batch", objective="wasserstein_clip"),
    Mlp(latent=4, width=8, batch=6, norm="batch", objective="nonsaturating", penalty=0.0),
    Style(latent=6, width=2, batch=6),
    Progressive(latent=6, width=2, batch=6, pack=2),
]


@pytest.mark.parametrize("recipe", RESUMED, ids=lambda recipe: recipe.to_spec())
def test_an_interrupted_training_goes_on_with_all_that_its_layers_keep(recipe, tmp_path):
    settings = replace(SETTINGS, updates=5)
    whole, judge, trained = run(recipe, settings)
    keep, said = Partial(tmp_path / "state.safetensors"), []

    def say(text):
        said.append(text)
        if len(said) == 4:
            raise KeyboardInterrupt

    made, against = recipe.build(SHAPE), recipe.opponent(SHAPE)
    with pytest.raises(KeyboardInterrupt):
        fit(made, against, recipe.contest(TRAIN, CPU), settings, say=say, keep=keep)
    made, against = recipe.build(SHAPE), recipe.opponent(SHAPE)
    again = fit(made, against, recipe.contest(TRAIN, CPU), settings, keep=keep)
    for one, other in ((whole, made), (judge, against)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert trained.album.keys() == again.album.keys()
    assert all(torch.equal(page, again.album[k]) for k, page in trained.album.items())


def test_real_images_are_what_the_generator_may_be_compared_with():
    recipe = Progressive(latent=6, width=2, batch=6)
    game = Watching()
    contest = replace(recipe.contest(TRAIN, CPU), game=game)
    run(recipe, replace(SETTINGS, updates=1), contest)
    # Before any update is over the level is the first, 4 x 4: every 2 x 2 pixels are one.
    real = game.turns[0][0].real
    assert torch.equal(real, real[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_packs_must_fit_the_batch():
    with pytest.raises(ValueError, match="batch must be a multiple of pack 4, got 6"):
        Sampling(TRAIN.x, None, Wasserstein(10.0), 6, pack=4)


def test_noise_is_on_whatever_the_discriminator_sees_and_fresh_each_time():
    seen = []
    recipe = Mlp(latent=4, width=8, batch=6, noise=0.5)
    made, against = recipe.build(SHAPE), recipe.opponent(SHAPE)
    against.register_forward_pre_hook(
        lambda net, given: seen.append(given[0].detach().clone()) if net.training else None
    )
    game = Watching()
    fit(made, against, replace(recipe.contest(TRAIN, CPU), game=game), SETTINGS)
    turn = game.turns[0][0]
    apart = torch.cat([seen[0] - turn.real, seen[1] - turn.fake])
    assert apart.std().item() == pytest.approx(0.5, rel=0.1)
    assert abs(apart.mean().item()) < 0.05
    assert not torch.equal(seen[0] - turn.real, seen[1] - turn.fake)


def test_decay_pulls_the_discriminators_weights_to_0_and_no_others():
    contest = replace(Mlp(latent=4, width=8).contest(TRAIN, CPU), game=Idle())
    recipe = Mlp(latent=4, width=8, batch=6)
    before = recipe.build(SHAPE).state_dict(), recipe.opponent(SHAPE).state_dict()
    settings = replace(SETTINGS, updates=20, decay=1.0, lr=0.01, ema=0.0)
    made, against, _ = run(recipe, settings, contest)
    weights = zip(before[1].values(), against.state_dict().values(), strict=True)
    assert all(now.norm() < then.norm() for then, now in weights)
    for name, then in before[0].items():
        assert torch.allclose(made.state_dict()[name], then, atol=1e-6)


@dataclass(frozen=True)
class Idle(Wasserstein):
    """A game whose losses hang on nothing."""

    penalty: float = 0.0

    def discriminator(self, judge, turn):
        loss, scores = super().discriminator(judge, turn)
        return loss * 0, scores

    def generator(self, scores):
        return super().generator(scores) * 0


def test_an_album_has_a_page_of_the_same_latents_per_entry():
    recipe = Dcgan(latent=6, width=2, batch=6)
    made, _, trained = run(recipe, replace(SETTINGS, updates=81, ema=0.0))
    assert list(trained.album) == [entry["update"] for entry in trained.log]
    for page in trained.album.values():
        assert (page.shape, page.dtype) == ((PAGE, *SHAPE), torch.uint8)
    # Without averaging what is kept is what was in play.
    last = trained.album[81].float() / 255
    assert torch.allclose(last, made.sample(PAGE, 2), atol=0.5 / 255 + 1e-6)


class Judged(nn.Module):
    """A discriminator that is as sure that an image was made: D = 1e-4."""

    def __init__(self, logit):
        super().__init__()
        self.logit, self.weight = logit, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.logit + self.weight * (x.flatten(1).sum(1) - x.flatten(1).sum(1).detach())


def test_slopes_under_both_costs_differ_by_how_sure_the_discriminator_is():
    recipe = Dcgan(latent=6, width=2, batch=6)
    made = recipe.build(SHAPE)
    sure = Judged(torch.tensor(1e-4).logit())
    trained = fit(made, sure, replace(recipe.contest(TRAIN, CPU), game=Idle()), SETTINGS)
    for entry in trained.log:
        ratio = entry["slope_nonsaturating"] / entry["slope_saturating"]
        assert ratio == pytest.approx(9999, rel=1e-3)


def test_looking_moves_nothing():
    recipe = Dcgan(latent=6, width=2, batch=6, norm="batch", objective="nonsaturating", penalty=0.0)

    @dataclass(frozen=True, eq=False)
    class Blind(Sampling):
        """A contest that does not look."""

        def slopes(self, players):
            return torch.zeros(2)

        def shown(self, generator):
            return torch.zeros(1, *SHAPE)

    sighted, blind = recipe.contest(TRAIN, CPU), Blind(TRAIN.x, None, NonSaturating(0.0), 6)
    blind = replace(blind, is_apart=True)
    one, _, _ = run(recipe, contest=sighted)
    other, _, _ = run(recipe, contest=blind)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_generator_may_take_more_steps_than_one():
    recipe, steps = Mlp(latent=4, width=8, batch=6), []

    @dataclass(frozen=True)
    class Counting(Wasserstein):
        """Notes which side is at work."""

        def discriminator(self, judge, turn):
            steps.append("D")
            return super().discriminator(judge, turn)

        def generator(self, scores):
            steps.append("G")
            return super().generator(scores)

    contest = replace(recipe.contest(TRAIN, CPU), game=Counting(10.0))
    run(recipe, replace(SETTINGS, critic=1, makers=2, updates=2), contest)
    assert steps == ["D", "G", "G"] * 2


class Growing(nn.Module):
    """A net that notes how far it is told to be."""

    def __init__(self):
        super().__init__()
        self.layer, self.shares = nn.Linear(4, 64), []

    def grow(self, share):
        self.shares.append(share)

    def forward(self, z):
        return self.layer(z).sigmoid().view(-1, *SHAPE)


def test_nets_that_grow_are_told_how_much_of_the_training_is_over():
    recipe = Mlp(latent=4, width=8, batch=6)
    made = recipe.build(SHAPE)
    with seeded(0):
        made.net = Growing()
    contest = recipe.contest(TRAIN, CPU)
    fit(made, recipe.opponent(SHAPE), contest, replace(SETTINGS, updates=4))
    assert made.net.shares == [0.0, 0.25, 0.5, 0.75, 1.0]
