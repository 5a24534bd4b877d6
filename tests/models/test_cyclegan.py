"""Recipes of pairs: their domains and truths, what they refuse, and the studio that trains them."""

from dataclasses import replace

import pytest
import torch

from defenses.registry import defenses
from models import checkpoint
from models.checkpoint import Cache
from models.cyclegan import CycleGan, blurred, negative
from models.gans import Gan
from models.registry import generators
from models.split import Split
from models.studio import Studio
from models.translation import SHOWN

SHAPE = (1, 4, 4)
CPU = torch.device("cpu")


def split(count=21):
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(4))
    return Split(x, torch.arange(count) % 3)


def studio(**changes):
    fields = {
        "train": split(),
        "shape": SHAPE,
        "fingerprint": "these images",
        "device": CPU,
        "numerics": {},
        "cache": None,
    }
    return Studio(**(fields | changes))


def test_the_truths_by_hand():
    x = torch.zeros(1, 1, 3, 4)
    x[0, 0, 1, 1], x[0, 0, 0, 3] = 1, 1
    expected = torch.tensor([[1, 1, 2, 1], [1, 1, 2, 1], [1, 1, 1, 0]]) / 9
    torch.testing.assert_close(blurred(x)[0, 0], expected)
    assert torch.equal(negative(x), 1 - x)
    assert torch.equal(CycleGan().truth(x), blurred(x))
    assert torch.equal(CycleGan(to="negative").truth(x), negative(x))
    with pytest.raises(ValueError, match="to must be one of blurred, negative, got 'x'"):
        CycleGan(to="x")


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_domains_are_halves_of_the_training_images_one_of_them_transformed(kind):
    x = split().x
    given = x if kind == torch.float32 else (255 * x).to(torch.uint8)
    a, b = CycleGan(to="negative").domains(Split(given, split().y), CPU)
    x = given if kind == torch.float32 else given / 255
    assert torch.equal(a, x[:10])
    assert torch.equal(b, 1 - x[10:])
    assert len(a) + len(b) == 21, "no image is in both"


def test_none_means_what_the_keys_say():
    assert CycleGan().settings(SHAPE).updates == 500
    assert CycleGan().settings((1, 28, 28)).updates == 2000
    contest = CycleGan(batch=3, cycle=2.0, same=1.0).contest(split(), CPU)
    assert (contest.batch, contest.cycle, contest.same) == (3, 2.0, 1.0)
    assert generators.get("cyclegan:to=negative,cycle=3.0").to_spec() == (
        "cyclegan:cycle=3.0,to=negative"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cyclegan:cycle=-1", "cyclegan: cycle must be at least 0, got -1.0"),
        ("cyclegan:same=inf", "cyclegan: same must be at least 0, got inf"),
        ("cyclegan:width=0", "cyclegan: width must be at least 1, got 0"),
        ("cyclegan:critic=0", "cyclegan: critic must be at least 1, got 0"),
        ("cyclegan:decay=-1", "cyclegan: decay must be at least 0, got -1.0"),
        ("cyclegan:lr=0", "cyclegan: lr must be above 0, got 0.0"),
        ("cyclegan:ema=1", r"cyclegan: ema must be in \[0, 1\), got 1.0"),
        ("cyclegan:to=rotated", "cyclegan: to must be one of"),
        ("cyclegan:weights=nowhere", "cyclegan: weights must be a file, got nowhere"),
    ],
)
def test_bad_keys_are_refused(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        generators.get(text)


def test_images_it_cannot_translate_are_refused():
    with pytest.raises(ValueError, match="at least 2 x 2 pixels, got 1 x 4"):
        CycleGan().build((1, 1, 4))
    with pytest.raises(ValueError, match="at least 2 training images, got 1"):
        CycleGan().contest(split(1), CPU)
    with pytest.raises(ValueError, match="no training split to train a generator on"):
        studio(train=None).ready(CycleGan(updates=1))


def test_a_pair_is_refused_by_name_where_images_are_made_of_latents():
    message = (
        "cyclegan makes images of images, and a generator that makes images of latents is needed"
    )
    for wrong in (
        lambda: Gan.from_spec("cyclegan"),
        lambda: defenses.get("purify:generator=cyclegan"),
        lambda: defenses.get("purify_encoder:generator=[cyclegan:to=negative]"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(ValueError, match=r"^dcgan makes images of latents, and"):
        CycleGan.from_spec("dcgan")


def test_whatever_changes_weights_is_in_what_they_are_made_of():
    recipe = CycleGan(updates=2)
    others = [
        replace(recipe, **{key: value})
        for key, value in {
            "to": "negative",
            "cycle": 1.0,
            "same": 1.0,
            "width": 3,
            "updates": 3,
            "batch": 2,
            "critic": 2,
            "lr": 1e-4,
            "ema": 0.5,
            "decay": 0.1,
            "seed": 1,
        }.items()
    ]
    made = [repr(each.made_of(SHAPE, "data")) for each in (recipe, *others)]
    assert len(set(made)) == len(made)


def test_the_studio_trains_a_pair_keeps_it_and_its_album(tmp_path):
    recipe, lines = CycleGan(updates=3, batch=4, width=2), []
    first = studio(cache=Cache(tmp_path), say=lines.append).ready(recipe)
    assert lines[0].startswith("training cyclegan:width=2,updates=3,batch=4: D minimises ((D(y)")
    assert [entry["update"] for entry in first.log] == [1, 2, 3]
    assert not first.generator.training
    again = studio(cache=Cache(tmp_path)).ready(recipe)
    assert (first.source, again.source) == ("trained", "cached")
    assert first.digest == again.digest == studio().ready(recipe).digest
    assert sorted(again.album) == [1, 2, 3]
    # A page: images of A as they are, in B, and back in A.
    page = again.album[3]
    assert page.shape == (3 * SHOWN, *SHAPE)
    shown = (split().x[:SHOWN] * 255).round().to(torch.uint8)
    assert torch.equal(page[:SHOWN], shown)
    assert studio().ready(replace(recipe, updates=0)).source == "untrained"


def test_weights_are_loaded_in_place_of_training(tmp_path):
    recipe = CycleGan(updates=1, width=2)
    ready = studio().ready(recipe)
    path = tmp_path / "pair.safetensors"
    checkpoint.write(path, ready.generator.state_dict(), {})
    given = studio(train=None).ready(CycleGan(width=2, weights=str(path)))
    assert (given.source, given.digest) == ("given", ready.digest)
