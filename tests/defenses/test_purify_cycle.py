"""Purification by one half of a CycleGAN: its domains, and what attacks are handed."""

import pytest
import torch

from attacks.registry import attacks
from bench.resolution import modes_of
from defenses.purify_cycle import _MOST
from defenses.registry import defenses
from defenses.translating import Attacked
from models.checkpoint import Cache
from models.split import Split

CPU = torch.device("cpu")
SPEC = "purify_cycle:attack=fgsm,width=4,updates=2"


def split(count):
    return Split(torch.arange(float(count)).view(-1, 1, 1, 1) / count, torch.zeros(count).long())


def domains(count, seen):
    def craft(images):
        seen.append(len(images))
        return images.x - 1

    return defenses.get(SPEC).trained(Attacked(craft, "")).domains(split(count), CPU)


def test_the_first_half_is_attacked_the_other_is_clean():
    seen = []
    a, b = domains(7, seen)
    x = split(7).x
    assert torch.equal(a, x[:4] - 1)
    assert torch.equal(b, x[4:]), "no image has its pair"
    assert seen == [4], "what is not needed is not attacked"


def test_no_more_than_so_many_are_attacked():
    seen = []
    a, b = domains(3 * _MOST, seen)
    assert seen == [len(a)] == [_MOST]
    assert torch.equal(b, split(3 * _MOST).x[3 * _MOST // 2 :])


def test_keys_reach_the_pair():
    recipe = defenses.get(
        "purify_cycle:cycle=2.0,same=3.0,width=5,updates=7,seed=9,attack=fgsm"
    ).trained(Attacked(lambda images: images.x, ""))
    assert (recipe.cycle, recipe.same, recipe.width) == (2.0, 3.0, 5)
    assert (recipe.updates, recipe.seed) == (7, 9)


def test_the_pair_is_known_by_the_net_that_is_attacked():
    one, other = (
        defenses.get(SPEC).at("linf", 0.15).trained(Attacked(lambda s: s.x, source))
        for source in ("one", "other")
    )
    assert one.made_of((1, 8, 8), "data") != other.made_of((1, 8, 8), "data")
    wider = defenses.get(SPEC).at("linf", 0.3).trained(Attacked(lambda s: s.x, "one"))
    assert wider.made_of((1, 8, 8), "data") != one.made_of((1, 8, 8), "data")


@pytest.fixture(scope="module")
def deployed(workshop, tmp_path_factory):
    lines = []
    cache = Cache(tmp_path_factory.mktemp("cache"))
    shop = workshop("logreg:epochs=2", cache=cache, say=lines.append)
    return defenses.get(SPEC).at("linf", 0.15).deploy(shop), shop, lines


def test_the_classifier_sees_the_clean_half(deployed, digits):
    defended, _, lines = deployed
    x = digits.test.images(slice(0, 5))
    assert torch.equal(defended.predict(x), defended.inside(defended.purified(x)))
    assert defended.passes == 2
    assert "attacking 584 training images with fgsm" in lines
    assert not any(p.requires_grad for p in defended.purified.parameters())


def test_attacks_are_handed_the_whole_and_what_goes_past_the_translator(deployed, digits):
    defended, _, _ = deployed
    recipe = defenses.get(SPEC)
    assert recipe.modes == ("white-box", "bpda", "transfer")
    ways = modes_of(attacks.get("pgd"), recipe, oblivious=True)
    assert ways == ("oblivious", "white-box", "bpda", "transfer")
    x = digits.test.images(slice(0, 4)).requires_grad_()
    assert defended.handed("white-box") is defended.predict
    past = defended.handed("bpda")
    assert torch.equal(past(x), defended.predict(x))
    (gradient,) = torch.autograd.grad(past(x)[:, 3].sum(), x)
    made = defended.purified(x).detach().requires_grad_()
    (at_the_image,) = torch.autograd.grad(defended.inside(made)[:, 3].sum(), made)
    torch.testing.assert_close(gradient, at_the_image)
    (through,) = torch.autograd.grad(defended.predict(x)[:, 3].sum(), x)
    assert not torch.allclose(through, gradient)


def test_provenance_names_the_pair(deployed):
    _, shop, _ = deployed
    noted = shop.noted["generator"]
    spec = "purify_cycle:eps=0.15,norm=linf,attack=fgsm,width=4,updates=2"
    assert (noted["spec"], noted["source"]) == (spec, "trained")
    assert len(shop.seconds) == 2, "the classifier's training and the pair's"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("purify_cycle:updates=0", "updates must be at least 1, got 0"),
        ("purify_cycle:updates=-1", "updates must be at least 0, got -1"),
        ("purify_cycle:cycle=-1", "cycle must be at least 0, got -1.0"),
        ("purify_cycle:same=-1", "same must be at least 0, got -1.0"),
        ("purify_cycle:width=0", "width must be at least 1, got 0"),
        ("purify_cycle:eps=2,norm=linf", "eps must be at most 1 under linf"),
        ("purify_cycle:attack=deepfool", "attack must be one that maximises a loss inside eps"),
    ],
)
def test_bad_keys_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        defenses.get(text)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="purify_cycle needs images of at least 2 x 2 pixels"):
        defenses.get("purify_cycle").check_data((1, 1, 9), 100)
