"""Where generators come from: the package, the cache, a file, or a training that goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch

from models import checkpoint, gan, state
from models.contested import Contested, Net
from models.gan import Album
from models.generators import Generator
from models.nets import Shape
from models.registry import canonical
from models.split import Split
from models.train import TrainingFailed

PRETRAINED = Path(__file__).parent / "pretrained"
"""Small generators that come with the package; its README.md names the commands."""
_ALBUM = "album"


@dataclass(frozen=True)
class Prepared(Generic[Net]):
    """A net ready for use, in eval mode; digest: of its weights; log: of its training, empty
    where it was given; source: given, untrained, pretrained, cached or trained; album: what it made
    while it was trained, empty where that was not here.
    """

    generator: Net
    digest: str
    log: list[dict[str, Any]]
    source: str
    album: Album = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of its training, whenever that was."""
        return float(sum(entry["seconds"] for entry in self.log))


Ready = Prepared[Generator]
"""A generator of images of latents."""


@dataclass(frozen=True)
class Studio:
    """Where generators come from: the training images, and the cache. fingerprint: the dataset's;
    numerics: whatever else moves a trained weight's last bits; has_pretrained: whether those that
    come with the package are used.
    """

    train: Split | None
    shape: Shape
    fingerprint: str
    device: torch.device
    numerics: Mapping[str, Any]
    cache: checkpoint.Cache | None
    say: Callable[[str], None] = lambda _: None
    has_pretrained: bool = True

    def ready(self, recipe: Contested[Net]) -> Prepared[Net]:
        """The generator as given, as it comes with the package, from the cache, or trained now; an
        interrupted training goes on.

        Raises gan.GanFailed for a training that fails, its last good generator kept in the cache;
        ValueError where a generator does not fit the images, or there are none to train on.
        """
        made = recipe.build(self.shape).to(self.device)
        if recipe.is_given or recipe.is_untrained:
            return self._told(made, [], "given" if recipe.is_given else "untrained")
        parts = recipe.made_of(self.shape, self.fingerprint)
        found = pretrained(parts) if self.has_pretrained else None
        source = "cached" if found is None else "pretrained"
        key = self._key(parts)
        if found is None and self.cache is not None:
            found = self.cache.get(key)
        if found is None:
            found, source = self._trained(recipe, made, key, parts), "trained"
        tensors, facts = found
        pages = state.of(_ALBUM, tensors)
        made.load_state_dict({k: t for k, t in tensors.items() if not k.startswith(f"{_ALBUM}/")})
        album = {int(update): page for update, page in pages.items()}
        return self._told(made, facts["log"], source, album)

    def forget(self, recipe: Contested[Net]) -> None:
        """Drops its finished weights from the cache; a training that was interrupted stays."""
        if self.cache is not None:
            key = self._key(recipe.made_of(self.shape, self.fingerprint))
            self.cache.path(key).unlink(missing_ok=True)

    def _key(self, parts: Mapping[str, Any]) -> str:
        return checkpoint.key(canonical({**parts, "device": self.device.type, **self.numerics}))

    def _trained(
        self, recipe: Contested[Net], made: Net, key: str, parts: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.train is None:
            raise ValueError("this dataset has no training split to train a generator on")
        contest = recipe.contest(self.train, self.device)
        against, settings = recipe.opponent(self.shape).to(self.device), recipe.settings(self.shape)
        self.say(f"training {recipe.to_spec()}: D minimises {contest.text}")
        keep = self.cache.partial(key) if self.cache else None
        try:
            trained = gan.fit(made, against, contest, settings, say=self.say, keep=keep)
        except gan.GanFailed as err:
            raise self._kept(err, key, parts) from err
        pages = {str(update): page for update, page in trained.album.items()}
        tensors = {**made.state_dict(), **state.under(_ALBUM, pages)}
        facts = {"log": trained.log, "made_of": parts, "spec": recipe.to_spec()}
        if self.cache is not None and keep is not None:
            self.cache.put(key, tensors, facts)
            keep.drop()
        return tensors, facts

    def _kept(self, err: gan.GanFailed, key: str, parts: Mapping[str, Any]) -> TrainingFailed:
        """The failure with the place of the last good generator; the way back is dropped, as it
        leads to the same end.
        """
        if self.cache is None:
            return err
        self.cache.partial(key).drop()
        path = self.cache.folder / "failed" / f"{key}.safetensors"
        try:
            checkpoint.write(path, err.weights, {"update": err.update, "made_of": parts})
        except OSError:
            return err
        return TrainingFailed(f"{err}, kept as {path}")

    @staticmethod
    def _told(
        made: Net, log: list[dict[str, Any]], source: str, album: Album | None = None
    ) -> Prepared[Net]:
        return Prepared(made.eval(), checkpoint.digest(made.state_dict()), log, source, album or {})


@functools.cache
def package() -> dict[str, str]:
    """The generators of the package: name of the file and digest of the weights."""
    return {
        path.name: checkpoint.digest(checkpoint.read(path)[0])
        for path in sorted(PRETRAINED.glob("*.safetensors"))
    }


def pretrained(parts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Weights and facts of the generator of the package that was made of these parts, or None."""
    for path in sorted(PRETRAINED.glob("*.safetensors")):
        weights, facts = checkpoint.read(path)
        if facts.get("made_of") == parts:
            return weights, facts
    return None
