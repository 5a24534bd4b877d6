"""The defense contract: a frozen dataclass that yields the deployed pipeline from what the workshop
offers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from attacks.draws import Draws
from attacks.oracles import Predict
from attacks.pipelines import DRAWS, is_random
from defenses import registry
from defenses.workshop import Workshop
from models.generators import Generator
from models.nets import Shape


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
class Usual:
    """How a pipeline that is dear to ask is evaluated where nobody says otherwise, at eps 0 and the
    reference eps alone: n, test images; eot, answers averaged per query; rows, images per call on
    the CPU.
    """

    n: int
    eot: int
    rows: int


class Defense(ABC):
    """Base of every defense recipe.

    revision: raised when a change of the code changes the pipeline, so that stored outcomes are not
    reused. The next four are said in a few words, empty where there is nothing to say; attacks are
    derived from them. randomness: what draws random numbers at prediction; masking: what lets no
    gradient through, or none that is any use; rejection: what may refuse an image. certifies: norms
    in which it yields a certificate. deploys_net: predict is the model's own net, with nothing
    around it, so that bounds of that net are bounds of the pipeline. is_baseline: nothing is
    defended. has_generator: attacks that search a latent space can be run.
    """

    revision: ClassVar[int] = 1
    randomness: ClassVar[str] = ""
    masking: ClassVar[str] = ""
    rejection: ClassVar[str] = ""
    certifies: ClassVar[tuple[str, ...]] = ()
    deploys_net: ClassVar[bool] = False
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
