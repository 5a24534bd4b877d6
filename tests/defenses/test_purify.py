"""Purification by generator inversion: what stands in the pipeline, who hides what, and that every
attack derived from it finds the truth of a planted purifier.
"""

import numpy as np
import pytest
import torch

from attacks.draws import Draws
from attacks.pipelines import evaluation_draws
from attacks.registry import attacks
from bench import evaluation
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.plan import Todo
from bench.resolution import modes_of, resolve
from bench.runner import Silent, execute
from bench.spec import Request
from bench.store import Store
from bench.units import Failed, Noted
from defenses.purify import Purifier, Unrolled, Watched
from defenses.registry import defenses
from defenses.workshop import Workshop
from models.checkpoint import Cache, write
from models.registry import generators, models
from models.train import Standard

EVERYTHING = '''
from torch import nn


class Everything(nn.Module):
    """Makes every image: its purification is the image itself."""

    def forward(self, z):
        return (4 * z).sigmoid().view(-1, 1, 8, 8)


def make(latent: int = 64):
    return Everything()
'''
TINY = "generator=[dcgan:updates=60]"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The spec of a purifier that changes next to nothing, and so defends nothing."""
    file = tmp_path_factory.mktemp("planted") / "everything.py"
    file.write_text(EVERYTHING)
    return (
        f"purify:generator=[{file}:make],untrained=true,lr=60.0,steps=60,restarts=2,near_steps=40,"
        "near_restarts=1"
    )


def run(**settings):
    request = Request(**({"models": ("logreg:epochs=3",), "n": 40, "audit": False} | settings))
    with Store.in_memory() as store:
        execute(resolve(request), store, LocalExecutor(), Silent())
        records = store.records()
    assert [record.failure for record in records if record.failure] == []
    return records


@pytest.fixture(scope="module")
def planted_records(planted):
    """PGD in every mode, without a random start so that a zero gradient stays at the image."""
    return run(attacks=("pgd:steps=20,random=false",), defenses=(planted,), eps="0,0.4")


def standing(record):
    return float((record.outcomes > 0.4).mean())


def test_every_mode_finds_that_a_planted_purifier_defends_nothing(planted_records):
    of = {r.mode: r for r in planted_records if r.defense != "none"}
    assert set(of) == {
        "oblivious",
        "bpda",
        "bpda+eot",
        "unrolled+eot",
        "released",
        "transfer",
        "latent",
    }
    (plain,) = [r for r in planted_records if r.defense == "none" and r.kind != "certificate"]
    assert standing(plain) == 0, "the truth: nothing is left of the net alone"
    clean = float((of["bpda"].outcomes > 0).mean())
    assert clean >= 0.8
    for mode in ("oblivious", "bpda", "bpda+eot", "unrolled+eot", "transfer", "latent"):
        assert standing(of[mode]) <= 0.05, mode


def test_the_released_attack_has_no_gradient_and_leaves_everything(planted_records):
    of = {r.mode: r for r in planted_records if r.defense != "none"}
    released = of["released"]
    assert released.provenance["gradients"]["zero"] == 1.0
    # Where no step is taken the image stays what it is, and right under the draws it was right.
    assert standing(released) == float((released.outcomes > 0).mean())
    for mode in ("bpda", "bpda+eot", "unrolled+eot", "transfer", "oblivious"):
        assert of[mode].provenance["gradients"]["zero"] == 0.0, mode


def test_images_before_and_after_are_kept_for_the_figure(planted_records):
    shown = next(r for r in planted_records if r.mode == "bpda").provenance["gallery"]
    assert shown["shape"] == [1, 8, 8]
    assert len(shown["labels"]) == 8
    assert set(shown["images"]) == {"clean", "clean purified", "adversarial", "purified"}


@pytest.mark.parametrize(("block", "is_shown"), [(0, True), (1, False)])
def test_a_cell_that_goes_on_shows_no_images_found_before(planted, block, is_shown):
    """The images themselves must not pass for adversarial ones."""
    request = Request(
        models=("logreg:epochs=3",),
        attacks=("pgd:steps=1",),
        defenses=(planted,),
        eps="0.4",
        n=258,
    )
    job = resolve(request)
    (cell,) = [c for c in job.cells if c.attack.mode == "bpda"]
    (unit,) = job.units([Todo(cell, (block,))])
    noted = [event.facts for event in evaluation.run(unit, lambda _: None) if type(event) is Noted]
    assert any("gallery" in facts for facts in noted) == is_shown


def test_where_its_numbers_come_from(planted_records):
    facts = next(r for r in planted_records if r.mode == "bpda").provenance
    assert facts["generator"]["source"] == "given"
    assert facts["passes"] == 2 * 60 * 2 + 1


@pytest.mark.parametrize(
    ("is_given", "expected"), [(False, "logreg:seed=1,epochs=3"), (True, "cnn_small:seed=1")]
)
def test_the_substitute_is_a_net_the_pipeline_has_nothing_of(
    planted, digits, tmp_path, monkeypatch, is_given, expected
):
    weights, asked = tmp_path / "model.safetensors", []
    write(weights, models.get("logreg").build(digits.shape, 10).state_dict(), {})
    model = f"logreg:weights={weights}" if is_given else "logreg:epochs=3"
    request = Request(models=(model,), attacks=("pgd:steps=1",), defenses=(planted,), n=2)
    job = resolve(request)
    (cell,) = [c for c in job.cells if c.attack.mode == "transfer"]
    (unit,) = job.units([Todo(cell, (0,))])

    def other(self, model):
        asked.append(model.to_spec())
        return self

    monkeypatch.setattr(Workshop, "of", other)
    events = list(evaluation.run(unit, lambda _: None))
    assert asked == [expected]
    assert not any(type(event) is Failed for event in events)


# --- modes and defaults --------------------------------------------------------------------------


def test_modes_are_derived_for_gradient_attacks_and_latent_comes_with_it():
    purify = defenses.get("purify")
    assert modes_of(attacks.get("pgd"), purify, oblivious=True) == (
        "oblivious",
        "bpda",
        "bpda+eot",
        "unrolled+eot",
        "released",
        "transfer",
    )
    assert modes_of(attacks.get("square"), purify, oblivious=True) == ("black-box",)
    assert modes_of(attacks.get("latent"), purify, oblivious=True) == ("latent",)
    assert modes_of(attacks.get("latent"), defenses.get("none"), oblivious=True) == ()


def test_a_run_with_it_is_small_unless_told_otherwise():
    cells = resolve(Request(defenses=("purify",))).cells
    assert {cell.data.n for cell in cells} == {100}
    assert {tuple(map(float, cell.eps)) for cell in cells} == {(0.0, 0.15)}
    eot = {cell.attack.mode: cell.eot for cell in cells if cell.defense.text == "purify"}
    assert eot["bpda+eot"] == eot["unrolled+eot"] == 4
    assert {eot[mode] for mode in ("bpda", "released", "transfer", "oblivious", "latent")} == {1}
    (own,) = [cell for cell in cells if cell.attack.mode == "latent"]
    assert own.attack.text == "latent:steps=100,tries=4,inversion=50"
    (note,) = resolve(Request(defenses=("purify",))).notes
    assert note == (
        "purify on digits is dear to ask: every row on 100 images at eps 0.0, 0.15; --n, --eps ask "
        "for more"
    )
    assert resolve(Request(defenses=("purify",), n=7, eps="0.1")).notes == ()
    assert resolve(Request(defenses=("madry",))).notes == ()
    told = resolve(Request(defenses=("purify",), n=7, eps="0.1", eot=2)).cells
    rows = [cell for cell in told if cell.attack.kind != "audit"]
    assert len(rows) == len(told) - 2, "an audit of the net alone, and one of the pipeline"
    assert {(cell.data.n, cell.eps) for cell in rows} == {(7, rows[0].eps)}
    assert {cell.eot for cell in told} == {1, 2}


def test_latent_asked_for_runs_once_and_not_without_a_generator():
    cells = resolve(Request(attacks=("pgd", "latent"), defenses=("purify",))).cells
    assert [cell.attack.text for cell in cells if cell.attack.mode == "latent"] == ["latent"]
    with pytest.raises(RequestError, match="latent needs a defense with a generator"):
        resolve(Request(attacks=("latent",), defenses=("madry",)))


def test_a_norm_that_latent_does_not_know_leaves_the_other_attacks():
    cells = resolve(Request(attacks=("sigma_zero",), defenses=("purify",), norm="l0")).cells
    assert "latent" not in {cell.attack.mode for cell in cells}
    assert "bpda+eot" in {cell.attack.mode for cell in cells}
    with pytest.raises(RequestError, match="attack latent knows the norms linf, l2, l1, got l0"):
        resolve(Request(attacks=("latent",), defenses=("purify",), norm="l0"))


# --- the pipeline --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def shop(workshop, cache):
    return workshop("logreg:epochs=2", cache=cache)


@pytest.fixture(scope="module")
def deployed(shop):
    return defenses.get(f"purify:{TINY}").deploy(shop)


def draws_of(x):
    return Draws.of(x, 0)


def test_the_classifier_sees_the_restart_with_the_smallest_error(deployed, digits):
    x = digits.test.images(slice(0, 5))
    purifier = deployed.purified
    found = purifier.found(x, draws_of(x))
    assert found.errors.shape == (5, 4)
    errors = (found.images - x).square().flatten(1).mean(1)
    torch.testing.assert_close(errors, found.errors.amin(1))
    with torch.no_grad():
        said = deployed.predict(x, draws_of(x))
        assert torch.equal(said, deployed.inside(found.images))
    assert torch.equal(purifier(x, draws_of(x)), found.images)


def test_what_an_image_becomes_depends_on_it_and_its_draws_alone(deployed, digits):
    x = digits.test.images(slice(0, 6))
    draws = draws_of(x)
    whole = deployed.purified(x, draws)
    part = deployed.purified(x[2:4], Draws(0, draws.ids[2:4], draws.restart[2:4]))
    torch.testing.assert_close(part, whole[2:4], atol=1e-4, rtol=1e-3)
    other = deployed.purified(x, evaluation_draws(draws.ids, 1))
    assert not torch.equal(other, whole)


def test_stand_ins_have_one_value_and_their_own_gradients(deployed, digits):
    x = digits.test.images(slice(0, 3))
    draws, answers, slopes = draws_of(x), {}, {}
    for mode in ("bpda", "unrolled+eot", "released"):
        leaf = x.clone().requires_grad_()
        said = deployed.handed(mode)(leaf, draws)
        (slopes[mode],) = torch.autograd.grad(said.logsumexp(1).sum(), leaf)
        answers[mode] = said.detach()
    assert torch.equal(answers["bpda"], answers["released"])
    torch.testing.assert_close(answers["unrolled+eot"], answers["bpda"])
    assert (slopes["released"] == 0).all()
    # The identity in place of the purifier: the gradient of the net at the purified image.
    near = deployed.surrogate.transform.transform
    leaf = near(x, draws).requires_grad_()
    (own,) = torch.autograd.grad(deployed.inside(leaf).logsumexp(1).sum(), leaf)
    assert torch.equal(slopes["bpda"], own)
    assert (slopes["unrolled+eot"].flatten(1).abs().amax(1) > 0).all()
    assert not torch.equal(slopes["unrolled+eot"], own)


def test_the_gradient_through_the_steps_is_that_of_differences(deployed, digits):
    """One restart, so that no other takes over; a float64 copy, so that differences are exact."""
    x = digits.test.images(slice(0, 2)).double()
    generator = generators.get("dcgan:updates=0").build(digits.shape).double()
    inversion = defenses.get("purify:near_steps=4,near_restarts=1").inversions(digits.shape)[1]
    unrolled = Unrolled(generator, inversion, 4)
    starts = generator.prior.latents(
        torch.rand(2, 1, 64, generator=torch.Generator().manual_seed(0)).double()
    )
    unrolled.starts = lambda *_: starts
    towards = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    leaf = x.clone().requires_grad_()
    value = (unrolled(leaf, None) * towards).sum()
    (slope,) = torch.autograd.grad(value, leaf)
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-6
    with torch.no_grad():
        up, down = ((unrolled(x + s * along, None) * towards).sum() for s in (step, -step))
    assert float((up - down) / (2 * step)) == pytest.approx(float((slope * along).sum()), rel=1e-4)


def test_nothing_of_generator_or_net_is_trained_by_a_gradient(deployed):
    assert not any(p.requires_grad for p in deployed.generator.parameters())
    assert not any(module.training for module in deployed.predict.modules())


@pytest.mark.parametrize("train", ["purified", "both"])
def test_the_classifier_may_learn_from_purified_images(train, shop, digits, monkeypatch):
    seen = []

    def fit(self, objective, identity, *, instead=None):
        split = instead.make(self.train)
        assert len(split) == instead.size(len(self.train))
        assert isinstance(objective, Standard)
        seen.append((split, objective.text))
        return self.net()

    monkeypatch.setattr(type(shop), "fit", fit)
    defended = defenses.get(f"purify:{TINY},train={train},images=12").deploy(shop)
    ((split, text),) = seen
    x = digits.train.images(slice(0, 12))
    expected = defended.purified(x, Draws.of(x, 0))
    torch.testing.assert_close(split.images(slice(0, 12)), expected)
    assert torch.equal(split.y[:12], digits.train.y[:12])
    assert defended.inside is None
    if train == "purified":
        assert (len(split), text) == (12, "L(G(z*), y)")
    else:
        assert len(split) == 12 + len(digits.train)
        assert torch.equal(split.images(slice(12, None)), digits.train.images(slice(None)))
        assert text == "L(G(z*), y) + L(x, y)"


def test_images_that_are_badly_made_may_be_refused(shop, digits):
    defended = defenses.get(f"purify:{TINY},fpr=0.1").deploy(shop)
    x = digits.validation.images(slice(None))
    draws = evaluation_draws(Draws.of(x, 0).ids, 0)
    with torch.no_grad():
        columns = defended.predict(x, draws)
        scores = defended.score(x, draws)
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).round()
        refused = defended.predict(noise, draws).argmax(1) == 10
    found = defended.purified.found(x, draws)
    torch.testing.assert_close(scores, found.errors.amin(1))
    share = float((columns.argmax(1) == 10).float().mean())
    assert 0 < share <= 0.1
    assert refused.all(), "no generator makes noise"
    assert defenses.get("purify:fpr=0.1").rejection
    assert not defenses.get("purify").rejection


def test_what_attacks_are_handed_refuses_as_rarely_as_the_pipeline(shop, digits):
    """A single step from one start: no error of its is below the whole inversion's threshold."""
    spec = f"purify:{TINY},fpr=0.1,near_steps=1,near_restarts=1,unroll=1"
    defended = defenses.get(spec).deploy(shop)
    x = digits.validation.images(slice(None))
    draws = evaluation_draws(Draws.of(x, 0).ids, 0)
    for mode in ("bpda", "unrolled+eot", "released"):
        with torch.no_grad():
            refused = defended.handed(mode)(x, draws).argmax(1) == 10
        assert 0 < float(refused.float().mean()) <= 0.1, mode


def test_the_score_s_gradient_is_that_of_the_envelope(deployed, digits):
    x = digits.test.images(slice(0, 3)).requires_grad_()
    purifier = deployed.purified
    assert isinstance(purifier, Purifier)
    _, scores = Watched(purifier, deployed.inside)(x, draws_of(x.detach()))
    (slope,) = torch.autograd.grad(scores.sum(), x)
    made = purifier(x.detach(), draws_of(x.detach()))
    torch.testing.assert_close(slope, 2 * (x.detach() - made) / 64)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("purify:steps=0", "steps must be at least 1, got 0"),
        ("purify:restarts=0", "restarts must be at least 1, got 0"),
        ("purify:lr=0", "lr must be above 0, got 0"),
        ("purify:momentum=1", r"momentum must be in \[0, 1\), got 1"),
        ("purify:penalty=-1", "penalty must be at least 0, got -1"),
        ("purify:unroll=0", "unroll must be at least 1, got 0"),
        ("purify:images=0", "images must be at least 1, got 0"),
        ("purify:fpr=1", "fpr must be in"),
        ("purify:generator=nope", "no generator 'nope'"),
        ("purify:generator=[dcgan:latent=0]", "latent must be at least 1, got 0"),
        ("purify:generator=[conditional]", "is asked for a class, which no gradient finds"),
        ("purify:generator=[dcgan:updates=0]", "is untrained; untrained=true takes it anyway"),
    ],
)
def test_bad_values_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        defenses.get(spec)


def test_a_generator_of_other_images_is_refused_before_any_work(tmp_path):
    for body, message in (
        ("z.sigmoid().view(-1, 1, 4, 16)", r"must make images of shape \(1, 8, 8\), got"),
        ("(z * 50).view(-1, 1, 8, 8)", r"must make images in \[0, 1\]"),
        ("(z @ z.new_ones(60, 64)).view(-1, 1, 8, 8)", "takes no latents of size 64"),
    ):
        file = tmp_path / "other.py"
        file.write_text(
            "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, z):\n"
            f"        return {body}\n\n\ndef make(latent: int = 64):\n    return Net()\n"
        )
        request = Request(defenses=(f"purify:generator=[{file}:make],untrained=true",))
        with pytest.raises(RequestError, match=message):
            resolve(request)


def test_too_few_validation_images_for_a_threshold_are_refused_before_any_work():
    with pytest.raises(RequestError, match="needs at least 1,000 clean validation images"):
        resolve(Request(defenses=("purify:fpr=0.001",)))


@pytest.fixture
def untrainable(tmp_path, digits):
    """A request for a dataset without a training split, and for a model that is given."""
    images = digits.test.images(slice(0, 40))
    pixels = (images * 16).round().to(torch.uint8).numpy()
    np.savez(tmp_path / "own.npz", x=pixels, y=digits.test.y[:40].numpy())
    weights = tmp_path / "model.safetensors"
    write(weights, models.get("logreg").build(digits.shape, 10).state_dict(), {})
    return {
        "datasets": (f"npz:test={tmp_path / 'own.npz'}",),
        "models": (f"logreg:weights={weights}",),
        "eps": "0.1",
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("purify", "no training split for generator dcgan: add train="),
        ("{},train=both", "no training split for train=both"),
        ("{},fpr=0.1", "needs at least 10 clean validation images"),
    ],
)
def test_what_has_to_be_trained_is_refused_where_there_is_no_training_split(
    untrainable, planted, spec, message
):
    with pytest.raises(RequestError, match=message):
        resolve(Request(**untrainable, defenses=(spec.format(planted),)))


def test_without_a_training_split_every_mode_runs_but_that_on_a_substitute(untrainable, planted):
    records = run(**untrainable, n=2, defenses=(planted,), attacks=("pgd:steps=1",))
    modes = {record.mode for record in records if record.defense != "none"}
    assert modes == {"oblivious", "bpda", "bpda+eot", "unrolled+eot", "released", "latent"}


def test_outcomes_under_every_draw_are_kept(planted_records):
    record = next(r for r in planted_records if r.mode == "bpda")
    assert record.outcomes.shape == (40, 3)
    assert np.isin(record.outcomes, [0.0, 0.4, np.inf]).all()
