"""The defense contract: a frozen dataclass that yields the deployed pipeline from what the workshop
offers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.oracles import Predict
from attacks.pipelines import DRAWS, is_random
from defenses import registry
from models import checkpoint, train
from models.gans import Gan, Ready, Studio
from models.generators import Generator
from models.nets import Shape
from models.recipes import Classifier
from models.registry import canonical
from models.split import Split
from models.train import Objective, Standard, TrainingFailed


class Certify(Protocol):
    """A certificate: within the radius of an image no perturbation changes the prediction."""

    def __call__(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Predictions (N,) int64, -1 where it abstains, and radii (N,) float64, 0 there."""
        ...


@dataclass(frozen=True)
class Defended:
    """A deployed pipeline.

    predict: images (N, C, H, W) in [0, 1] to logits (N, K), what decides; one that draws is a
    attacks.pipelines.Randomised and takes draws, too; one that may refuse says so (its attribute
    `refuses`) and returns a column more, the last meaning refused. surrogate: what gradient attacks
    are handed, the pipeline itself or what stands in for what lets no gradient through; it draws
    and refuses as predict does. exact: it answers as predict does, so that only its gradient
    differs. inside: the undefended classifier in it, on which an oblivious adversary makes images;
    where None that is the model trained without a defense. passes: of a net, per prediction.
    further: what attacks are handed in modes of another first word than the surrogate's; draws:
    evaluation draws that one that draws is judged under; purified: images, and draws where predict
    takes any, to the images that the classifier sees. generator: the generator inside; score: a
    detector's score (N,) of images, larger is more suspicious; certify: a certificate for the norms
    that the recipe names.
    """

    predict: Predict
    surrogate: Predict
    exact: bool = False
    inside: Predict | None = None
    passes: int = 1
    further: Mapping[str, Predict] = field(default_factory=dict)
    draws: int = DRAWS
    purified: Predict | None = None
    generator: Generator | None = None
    score: Predict | None = None
    certify: Certify | None = None

    @property
    def random(self) -> bool:
        """Whether predict draws random numbers."""
        return is_random(self.predict)

    def handed(self, mode: str) -> Predict:
        """What gradient attacks are handed in a mode."""
        return self.further.get(mode.split("+")[0], self.surrogate)

    def facts(self) -> dict[str, Any]:
        """What it costs, as provenance stores it."""
        net = self.predict
        held = net.parameters() if isinstance(net, nn.Module) else ()
        return {"parameters": sum(p.numel() for p in held), "passes": self.passes}


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


@dataclass(frozen=True)
class Usual:
    """How a pipeline that is dear to ask is evaluated where nobody says otherwise, at eps 0 and the
    reference eps alone: n, test images; eot, answers averaged per query; rows, images per call on
    the CPU.
    """

    n: int
    eot: int
    rows: int


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

    def generator(self, recipe: Gan) -> Ready:
        """A generator of the dataset's images: as given, pretrained, from the cache, or trained."""
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


class Defense(ABC):
    """Base of every defense recipe.

    revision: raised when a change of the code changes the pipeline, so that stored outcomes are not
    reused. The next four are said in a few words, empty where there is nothing to say; attacks are
    derived from them. randomness: what draws random numbers at prediction; masking: what lets no
    gradient through, or none that is any use; rejection: what may refuse an image. certifies: norms
    in which it yields a certificate. is_baseline: nothing is defended. has_generator: attacks that
    search a latent space can be run.
    """

    revision: ClassVar[int] = 1
    randomness: ClassVar[str] = ""
    masking: ClassVar[str] = ""
    rejection: ClassVar[str] = ""
    certifies: ClassVar[tuple[str, ...]] = ()
    is_baseline: ClassVar[bool] = False
    has_generator: ClassVar[bool] = False

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes in which every gradient attack is run against it, beside the oblivious one."""
        return (self.adaptive,)

    @property
    def adaptive(self) -> str:
        """The mode of gradient attacks that know the defense: bpda hands them the surrogate in
        place of what masks, eot the mean over its draws (Athalye et al. 2018, arXiv:1802.00420).
        """
        parts = [self.masking and "bpda", self.randomness and "eot"]
        return "+".join(filter(None, parts)) or "white-box"

    @abstractmethod
    def deploy(self, workshop: Workshop) -> Defended:
        """The pipeline that is deployed."""

    def at(self, norm: str, reference: float | None) -> Self:  # noqa: ARG002  most recipes need neither
        """This recipe with what it left open filled in from the run: the norm and the dataset's
        reference eps.
        """
        return self

    def own_attacks(self, shape: Shape) -> tuple[str, ...]:  # noqa: ARG002  most have none
        """Specs of attacks built for it, on images (C, H, W): they run beside those asked for, in
        the norms that they know, unless asked for themselves.
        """
        return ()

    def usual(self, shape: Shape) -> Usual | None:  # noqa: ARG002  most are cheap to ask
        """How it is evaluated on images (C, H, W) unless told otherwise; none: as any other."""
        return None

    @classmethod
    def from_spec(cls, text: str) -> Self:
        """The defense that a spec names."""
        recipe = registry.defenses.get(text)
        if not isinstance(recipe, cls):
            raise TypeError(f"{text!r} must name a defense, got {type(recipe).__name__}")
        return recipe

    def check_data(self, shape: Shape, validation: int) -> None:  # noqa: B027  most work with any
        """Refuses images of a shape, or so few validation images, that it cannot work with; 0 where
        there is no training split either.
        """

    def to_spec(self) -> str:
        """The shortest spec of this defense."""
        return registry.defenses.describe(self)

    def identity(self) -> dict[str, Any]:
        """What the defense is, for digests."""
        return registry.defenses.identity(self)
