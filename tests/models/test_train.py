"""The training loop: what equal arguments give, which checkpoint is kept, what ends a training."""

import itertools
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models import train
from models.recipes import CnnSmall
from models.seeding import seeded
from models.split import Split
from models.train import Settings, Standard, TrainingFailed, accuracy, fit

QUICK = Settings(epochs=2, batch=10, optimiser="adam", lr=1e-2, decay=0.0, seed=0)


def blobs(count, *, seed=0, channels=1):
    """Images of 8 x 8 whose class, of three, is the row that is brightest."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = torch.rand(count, channels, 8, 8, generator=generator) * 0.5
    x[torch.arange(count), :, y * 2] += 0.5
    return Split(x, y)


TRAIN, VALIDATION = blobs(47), blobs(12, seed=1)


def untrained(seed=0, *, dropout=0.0):
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 3))


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def trained(settings=QUICK, objective=None, *, seed=0, dropout=0.0):
    net = untrained(seed, dropout=dropout)
    log = fit(net, TRAIN, VALIDATION, objective or Standard(), settings)
    return net, log


# --- repeatability -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("flips", [False, True])
def test_equal_arguments_give_equal_weights_bit_for_bit(optimiser, flips):
    settings = replace(QUICK, optimiser=optimiser, flips=flips, decay=1e-3)
    one, _ = trained(settings, dropout=0.5)
    with seeded(123):
        torch.rand(7)  # whatever ran before makes no difference
        other, _ = trained(settings, dropout=0.5)
    assert equal(weights(one), weights(other))


def test_the_seed_decides_order_and_dropout():
    one, _ = trained(QUICK)
    other, _ = trained(replace(QUICK, seed=1))
    assert not equal(weights(one), weights(other)), "same start, another order"
    whole = replace(QUICK, batch=len(TRAIN.y))  # one batch an epoch: the order is nothing
    one, other = (trained(replace(whole, seed=s), dropout=0.5)[0] for s in (0, 1))
    assert not torch.allclose(one[2].weight, other[2].weight), "another dropout"


def test_a_recipe_trained_twice_gives_equal_weights_and_another_seed_others():
    def made(seed):
        recipe = CnnSmall(seed=seed, epochs=1)
        net = recipe.build((1, 8, 8), 3)
        fit(net, TRAIN, VALIDATION, Standard(), recipe.settings(len(TRAIN), 1))
        return weights(net)

    assert equal(made(0), made(0))
    assert not equal(made(0), made(1))


def test_splits_and_global_random_state_are_left_alone():
    before = torch.get_rng_state()
    x, y = TRAIN.x.clone(), TRAIN.y.clone()
    trained(replace(QUICK, flips=True), dropout=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(TRAIN.x, x)
    assert torch.equal(TRAIN.y, y)


def test_whole_numbers_and_fractions_train_alike():
    numbers = Split((TRAIN.x * 255).round().to(torch.uint8), TRAIN.y)
    fractions = Split(numbers.x.float() / 255, TRAIN.y)
    made = []
    for split in (numbers, fractions):
        net = untrained()
        fit(net, split, VALIDATION, Standard(), QUICK)
        made.append(weights(net))
    assert equal(*made)


def test_standard_training_is_the_textbook_loop():
    settings = replace(QUICK, batch=len(TRAIN), epochs=3, optimiser="sgd", lr=0.1, decay=0.01)
    net, log = trained(settings)
    slow = untrained()
    momentum = [torch.zeros_like(p) for p in slow.parameters()]
    losses = []
    for update in (1, 2, 3):
        loss = F.cross_entropy(slow(TRAIN.x), TRAIN.y)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(slow.parameters()))
        rate = 0.1 * train._triangle(update, 3)
        with torch.no_grad():
            for p, g, v in zip(slow.parameters(), gradients, momentum, strict=True):
                v.mul_(0.9).add_(g + 0.01 * p)
                p.sub_(rate * v)
    assert [entry["loss"] for entry in log] == pytest.approx(losses, rel=1e-5)
    for p, q in zip(net.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)  # the batch is summed in other order


# --- what an objective sees ----------------------------------------------------------------------


@dataclass
class Watching:
    """Standard training that notes what it is handed."""

    text: str = "L"
    batches: list = field(default_factory=list)
    validations: list = field(default_factory=list)

    def loss(self, net, batch):
        assert net.training
        self.batches.append(batch)
        return F.cross_entropy(net(batch.x), batch.y)

    def validate(self, net, validation, progress):
        assert not net.training
        assert validation is VALIDATION
        self.validations.append(progress)
        return {"score": 0.0}


def test_every_epoch_is_a_new_order_of_all_samples():
    watching = Watching()
    trained(QUICK, watching)
    assert len(watching.batches) == 10
    assert [len(b.y) for b in watching.batches] == [10, 10, 10, 10, 7] * 2
    orders = []
    for epoch, batches in itertools.groupby(watching.batches, key=lambda b: b.epoch):
        order = torch.cat([b.index for b in batches])
        assert sorted(order.tolist()) == list(range(47)), epoch
        orders.append(order.tolist())
    assert orders[0] != orders[1]
    for batch in watching.batches:
        assert torch.equal(batch.x, TRAIN.x[batch.index])
        assert torch.equal(batch.y, TRAIN.y[batch.index])


def test_the_order_does_not_depend_on_what_the_net_draws():
    orders = []
    for dropout in (0.0, 0.5):
        watching = Watching()
        trained(QUICK, watching, dropout=dropout)
        orders.append([b.index.tolist() for b in watching.batches])
    assert orders[0] == orders[1]


def test_progress_is_the_share_of_updates_made():
    watching = Watching()
    trained(QUICK, watching)
    assert [b.progress for b in watching.batches] == pytest.approx([i / 10 for i in range(10)])
    assert watching.validations == [0.5, 1.0]


@pytest.mark.parametrize(
    ("epochs", "validated"),
    [
        (1, [1]),
        (25, list(range(1, 26))),
        (26, list(range(2, 27, 2))),
        (27, [*range(2, 27, 2), 27]),
        (94, [*range(4, 93, 4), 94]),
    ],
)
def test_there_are_at_most_25_validations_and_one_after_the_last_epoch(epochs, validated):
    watching = Watching()
    _, log = trained(replace(QUICK, epochs=epochs, batch=47), watching)
    assert [entry["epoch"] for entry in log] == validated
    assert watching.validations == [epoch / epochs for epoch in validated]
    assert len(log) <= 25


# --- the log -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """A loss whose value is the number of the epoch, from 1."""

    text: str = "constant"

    def loss(self, net, batch):
        return 0 * net(batch.x).sum() + batch.epoch + 1

    def validate(self, net, validation, progress):
        return {"score": progress, "clean": 0.5, "robust": 0.25}


def test_a_log_entry_holds_the_mean_loss_since_the_last_and_what_was_measured():
    lines = []
    settings = replace(QUICK, epochs=27, batch=20)
    log = fit(untrained(), TRAIN, VALIDATION, Constant(), settings, say=lines.append)
    assert [entry["loss"] for entry in log] == [1.5 + 2 * i for i in range(13)] + [27]
    for entry in log:
        assert set(entry) == {"epoch", "loss", "score", "clean", "robust", "seconds"}
        assert (entry["clean"], entry["robust"]) == (0.5, 0.25)
        assert entry["seconds"] >= 0
    assert len(lines) == len(log)
    assert lines[0].startswith("epoch 2/27: loss 1.5000, clean 50.0 %, robust 25.0 %, ")


# --- the best checkpoint -------------------------------------------------------------------------


@dataclass
class Scored:
    """Scores that are given, and the weights that each was given to."""

    scores: list
    text: str = "scored"
    seen: list = field(default_factory=list)

    def loss(self, net, batch):
        return F.cross_entropy(net(batch.x), batch.y)

    def validate(self, net, validation, progress):
        self.seen.append(weights(net))
        return {"score": self.scores[len(self.seen) - 1]}


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.9, 0.3, 0.2], 1),
        ([0.9, 0.1, 0.1, 0.1], 0),
        ([0.1, 0.2, 0.3, 0.4], 3),
        ([0.5, 0.9, 0.9, 0.2], 2),  # of equals the later
        ([-1.0, -0.5, -0.7, -0.9], 1),
        ([math.nan, 0.3, math.nan, 0.1], 1),
    ],
)
def test_the_checkpoint_with_the_best_score_is_kept(scores, best):
    objective = Scored(scores)
    net, log = trained(replace(QUICK, epochs=4), objective)
    assert not equal(objective.seen[0], objective.seen[-1])
    assert equal(weights(net), objective.seen[best])
    assert not net.training
    assert len(log) == 4, "the log tells of all of them"


def test_buffers_belong_to_the_checkpoint():
    with seeded(0):
        net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3))
    objective = Scored([0.9, 0.1])
    fit(net, TRAIN, VALIDATION, objective, QUICK)
    assert int(net[0].num_batches_tracked) == 5
    assert equal(weights(net), objective.seen[0])


# --- failures ------------------------------------------------------------------------------------


def test_training_that_ends_at_one_class_is_named():
    def stuck(epochs):
        net = untrained()
        net[2].bias.data[0] = 100.0  # the largest logit of every image, whatever 500 updates do
        settings = replace(QUICK, lr=1e-6, batch=47, epochs=epochs)
        return net, fit(net, TRAIN, VALIDATION, Standard(), settings)

    with pytest.raises(TrainingFailed, match="predicts one class for every image"):
        stuck(500)
    net, _ = stuck(499)
    assert set(train.predictions(net, VALIDATION).tolist()) == {0}, "may yet be a slow start"


def test_a_loss_that_grows_beyond_all_bounds_ends_training():
    net = CnnSmall().build((1, 8, 8), 3)
    settings = replace(QUICK, optimiser="sgd", lr=1e12, epochs=5)
    with pytest.raises(TrainingFailed, match=r"training diverged: the loss is (nan|inf) in epoch "):
        fit(net, TRAIN, VALIDATION, Standard(), settings)


@dataclass(frozen=True)
class Broken:
    """A loss that is not a number in one epoch."""

    epoch: int
    value: float
    text: str = "broken"

    def loss(self, net, batch):
        loss = F.cross_entropy(net(batch.x), batch.y)
        return loss * self.value if batch.epoch == self.epoch else loss

    def validate(self, net, validation, progress):
        return {"score": 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_epoch(value):
    one_update_an_epoch = replace(QUICK, epochs=4, batch=47)
    with pytest.raises(TrainingFailed, match=f"diverged: the loss is {value} in epoch 2"):
        trained(one_update_an_epoch, Broken(1, value))


def test_a_loss_that_was_not_finite_between_two_validations_is_found_at_the_next():
    with pytest.raises(TrainingFailed, match="in epoch 4"):
        trained(replace(QUICK, epochs=30, batch=47), Broken(2, math.nan))


@dataclass(frozen=True)
class GivesUp:
    """An objective that finds going on pointless."""

    text: str = "gives up"

    def loss(self, net, batch):
        return F.cross_entropy(net(batch.x), batch.y)

    def validate(self, net, validation, progress):
        raise TrainingFailed("pointless")


def test_an_objective_may_end_training():
    with pytest.raises(TrainingFailed, match="pointless"):
        trained(QUICK, GivesUp())


# --- the learning rate ---------------------------------------------------------------------------


@given(st.integers(1, 500))
def test_the_rate_rises_to_its_peak_at_two_fifths_and_falls_towards_0(steps):
    rates = [train._triangle(step, steps) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    assert train._triangle(steps + 1, steps) == 0
    top = rates.index(max(rates))
    assert abs(top + 1 - 0.4 * steps) <= 1
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    rise = [rate for step, rate in enumerate(rates, 1) if step <= 0.4 * steps]
    assert rise == pytest.approx([step / (0.4 * steps) for step in range(1, len(rise) + 1)])


def test_values_of_the_rate():
    # Ten updates: up in four steps to 1, then down a line that meets 0 at the eleventh.
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0]
    assert [train._triangle(step, 10) for step in range(1, 12)] == pytest.approx(expected)


def test_each_update_is_made_at_its_rate():
    rates = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "SGD", Noting)
        trained(replace(QUICK, optimiser="sgd", lr=0.5))
    assert rates == pytest.approx([0.5 * train._triangle(step, 10) for step in range(1, 11)])


# --- shifted and mirrored images -----------------------------------------------------------------


def variants(image):
    """Every shift by up to 4 pixels with zeros moving in, mirrored or not: (places, images)."""
    _, height, width = image.shape
    for mirrored, down, right in itertools.product([False, True], range(-4, 5), range(-4, 5)):
        source = image.flip(2) if mirrored else image
        moved = torch.zeros_like(image)
        for row, column in itertools.product(range(height), range(width)):
            if 0 <= row + down < height and 0 <= column + right < width:
                moved[:, row, column] = source[:, row + down, column + right]
        yield moved


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 9, 6)], ids=str)
def test_every_output_is_a_shifted_perhaps_mirrored_copy_of_its_input(shape):
    x = torch.rand(30, *shape, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    out = train._flipped(x, torch.Generator().manual_seed(1))
    assert out.shape == x.shape
    assert torch.equal(x, kept)
    for image, moved in zip(x, out, strict=True):
        assert sum(torch.equal(moved, variant) for variant in variants(image)) == 1


def test_every_shift_is_as_likely_and_half_the_images_are_mirrored():
    # One bright pixel in the middle of 11 x 11, beside a darker one that tells left from right.
    image = torch.zeros(1, 11, 11)
    image[0, 5, 5], image[0, 5, 6] = 1.0, 0.5
    count = 8100
    out = train._flipped(image.expand(count, 1, 11, 11), torch.Generator().manual_seed(0))[:, 0]
    place = (out == 1).flatten(1).float().argmax(1)
    rows, columns = place // 11, place % 11
    mirrored = (out[torch.arange(count), rows, (columns + 1).clamp(max=10)] != 0.5) & (columns < 10)
    # Binomial counts: five standard deviations around the mean.
    assert abs(int(mirrored.sum()) - count / 2) < 5 * math.sqrt(count / 4)
    for coordinate in (rows, columns):
        counts = torch.bincount(coordinate - 1, minlength=9)
        assert len(counts) == 9
        assert (counts - count / 9).abs().max() < 5 * math.sqrt(count * 8 / 81)


def test_the_generator_alone_decides():
    x = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    one, same, other = (
        train._flipped(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_images_are_shifted_where_the_settings_say_so():
    watching = Watching()
    trained(replace(QUICK, flips=True), watching)
    assert any(not torch.equal(b.x, TRAIN.x[b.index]) for b in watching.batches)


# --- accuracy ------------------------------------------------------------------------------------


class Reads(nn.Module):
    """Predicts the class that the first pixel of an image names, in tenths."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return F.one_hot((x[:, 0, 0, 0] * 10).round().long(), 10).float()


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1300])
def test_accuracy_is_the_share_of_right_predictions(count):
    y = torch.arange(count) % 10
    x = torch.zeros(count, 1, 2, 2)
    x[:, 0, 0, 0] = y / 10
    net = Reads()
    assert accuracy(net, Split(x, y)) == 1.0
    assert sum(net.rows) == count
    assert max(net.rows) <= 512
    wrong = y.clone()
    wrong[::3] = (wrong[::3] + 1) % 10
    assert accuracy(net, Split(x, wrong)) == (count - math.ceil(count / 3)) / count


def test_accuracy_of_whole_numbers_divides_by_255():
    x = torch.tensor([51, 102, 26]).to(torch.uint8).view(3, 1, 1, 1)  # 0.2, 0.4, 0.10196
    assert accuracy(Reads(), Split(x, torch.tensor([2, 4, 1]))) == 1.0


def test_standard_training_learns():
    net, log = trained(replace(QUICK, epochs=30))
    assert accuracy(net, VALIDATION) == max(entry["clean"] for entry in log) == 1.0
    assert log[-1]["loss"] < log[0]["loss"]


# --- splits and seeds ----------------------------------------------------------------------------


def test_a_split_gives_float_images_in_the_unit_interval():
    x = torch.tensor([0, 51, 255, 102]).to(torch.uint8).view(4, 1, 1, 1)
    split = Split(x, torch.arange(4))
    assert split.images(torch.tensor([2, 1])).flatten().tolist() == pytest.approx([1.0, 0.2])
    assert split.images(slice(0, 2)).dtype == torch.float32
    assert x.flatten().tolist() == [0, 51, 255, 102]
    part = split.take(torch.tensor([3, 0]))
    assert (len(part), part.y.tolist(), part.x.flatten().tolist()) == (2, [3, 0], [102, 0])


def test_seeded_forks_the_global_generator():
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_puts_the_generator_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="Trying to create tensor with negative"), seeded(1):
        torch.rand(-torch.randint(1, 9, (1,)).item())
    assert torch.equal(torch.get_rng_state(), before)
