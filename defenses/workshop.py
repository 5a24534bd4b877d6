"""What a defense is built in: the model, the training data, and trained nets that are cached."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from models import checkpoint, train
from models.contested import Contested, Net
from models.nets import Shape
from models.recipes import Classifier
from models.registry import canonical
from models.split import Split
from models.studio import Prepared, Studio
from models.train import Objective, Standard, TrainingFailed


@dataclass(frozen=True)
class Trained:
    """What a training left behind: the weights' digest, the objective, its log, its seconds."""

    weights: str
    objective: str
    log: list[dict[str, Any]]
    seconds: float

    def facts(self) -> dict[str, Any]:
        """As provenance stores it."""
        return {
            "weights": self.weights,
            "objective": self.objective,
            "training_log": self.log,
            "training_seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class OtherSplit:
    """A training split made of the given one; made only when needed. size: how many images it has
    where the given one has so many.
    """

    size: Callable[[int], int]
    make: Callable[[Split], Split]


Weights = dict[str, Tensor]
Made = tuple[Weights, list[dict[str, Any]]]
"""What was fitted, by name, and its log."""


@dataclass
class Workshop:
    """What a defense may use: the model, the training data, and trained nets that are cached.

    fingerprint: the dataset's; numerics: whatever else moves a trained weight's last bits (threads,
    versions); cache None trains anew each time. trained collects what was trained or read from the
    cache, for provenance, noted what else belongs there; seconds those of every training, of other
    models, too.
    """

    model: Classifier
    train: Split | None
    validation: Split | None
    shape: Shape
    classes: int
    fingerprint: str
    device: torch.device
    numerics: Mapping[str, Any] = field(default_factory=dict)
    cache: checkpoint.Cache | None = None
    say: Callable[[str], None] = lambda _: None
    trained: list[Trained] = field(default_factory=list)
    noted: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def net(self) -> nn.Module:
        """The model as its recipe builds it, in eval mode on the device."""
        return self.model.build(self.shape, self.classes).to(self.device)

    def given(self) -> nn.Module:
        """The model as it came, and its digest for provenance."""
        net = self.net()
        self.trained.append(Trained(checkpoint.digest(net.state_dict()), "", [], 0.0))
        return net

    def undefended(self) -> nn.Module:
        """The model as it was given, or trained on clean images."""
        return self.given() if self.model.is_trained else self.fit(Standard(), "standard")

    def of(self, model: Classifier) -> Workshop:
        """The same workshop for another model, whose trainings are not listed here but whose
        seconds count.
        """
        return replace(self, model=model, trained=[])

    def fit(
        self, objective: Objective, identity: Any, *, instead: OtherSplit | None = None
    ) -> nn.Module:
        """The model trained for an objective, from the cache where it is there; an interrupted
        training goes on from its last epoch. identity: the objective's, for keys, and
        that of the split trained on instead, where there is one.

        Raises TrainingFailed for training that diverged or collapsed, ValueError where there is no
        training data.
        """
        train_split, validation = self.splits()
        net = self.net()
        images = len(train_split) if instead is None else instead.size(len(train_split))
        settings = self.model.settings(images, self.shape[0])
        parts = {
            "data": self.fingerprint,
            "model": self.model.identity(),
            "initial": checkpoint.digest(net.state_dict()),
            "settings": {k: repr(v) for k, v in vars(settings).items()},
            "objective": identity,
            "revision": train.REVISION,
            "device": self.device.type,
            **self.numerics,
        }
        key = checkpoint.key(canonical(parts))
        stored = self.cache.get(key) if self.cache else None
        if stored is None:
            split = train_split if instead is None else instead.make(train_split)
            self.say(f"training {self.model.to_spec()}: minimise {objective.text}")
            keep = self.cache.partial(key) if self.cache else None
            data = split, validation
            try:
                log = train.fit(net, *data, objective, settings, say=self.say, keep=keep)
            except TrainingFailed:
                self._over(key)
                raise
            facts: dict[str, Any] = {"objective": objective.text, "log": log, "made_of": parts}
            if self.cache:
                self.cache.put(key, net.state_dict(), facts)
            self._over(key)
        else:
            weights, facts = stored
            net.load_state_dict(weights)
        seconds = sum(entry["seconds"] for entry in facts["log"])
        self.seconds.append(seconds)
        weights_digest = checkpoint.digest(net.state_dict())
        self.trained.append(Trained(weights_digest, facts["objective"], facts["log"], seconds))
        return net.eval()

    def made(self, text: str, identity: Any, make: Callable[[], Made]) -> Weights:
        """What is fitted by other means than the training loop, from the cache where it is there.
        text: what is fitted, as an objective; identity: whatever changes it beyond the dataset.

        Raises ValueError where there is no training data.
        """
        self.splits()
        parts = {
            "data": self.fingerprint,
            "made": identity,
            "device": self.device.type,
            **self.numerics,
        }
        key = checkpoint.key(canonical(parts))
        stored = self.cache.get(key) if self.cache else None
        if stored is None:
            self.say(f"training {text}")
            start = time.perf_counter()
            weights, log = make()
            seconds = time.perf_counter() - start
            facts: dict[str, Any] = {"log": log, "seconds": seconds, "made_of": parts}
            if self.cache:
                self.cache.put(key, weights, facts)
        else:
            weights, facts = stored
        digest = checkpoint.digest(weights)
        self.seconds.append(facts["seconds"])
        self.trained.append(Trained(digest, text, facts["log"], facts["seconds"]))
        return weights

    def studio(self) -> Studio:
        """Where generators of the dataset's images come from."""
        return Studio(
            train=self.train,
            shape=self.shape,
            fingerprint=self.fingerprint,
            device=self.device,
            numerics=self.numerics,
            cache=self.cache,
            say=self.say,
        )

    def generator(self, recipe: Contested[Net]) -> Prepared[Net]:
        """A generator of the dataset's images, or a pair of translators: as given, pretrained, from
        the cache, or trained.
        """
        ready = self.studio().ready(recipe)
        self.seconds.append(ready.seconds)
        self.noted["generator"] = {
            "spec": recipe.to_spec(),
            "weights": ready.digest,
            "source": ready.source,
        }
        return ready

    def splits(self) -> tuple[Split, Split]:
        """The training and validation splits; raises ValueError where there are none."""
        if self.train is None or self.validation is None:
            raise ValueError(
                "this dataset has no training split (npz: add train=); only given weights can be "
                "evaluated"
            )
        return self.train, self.validation

    def _over(self, key: str) -> None:
        """Forgets how far a training has come."""
        if self.cache:
            self.cache.partial(key).drop()
