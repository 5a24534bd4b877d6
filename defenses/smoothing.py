"""Randomised smoothing: the class that most noisy copies of an image are given, with a radius
within which it provably stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.pipelines import Randomised
from defenses import certificates
from defenses.augmentation import Noisy
from defenses.base import Defended, Defense
from defenses.workshop import Workshop

_MOST = 100_000
"""Votes up to which float32 tells the logarithms of neighbouring counts apart."""


@dataclass(frozen=True)
class Smoothing(Defense):
    """Randomised smoothing (Cohen, Rosenfeld, Kolter 2019, arXiv:1902.02918).

    A base net, trained on images with normal noise of standard deviation sigma (in input units; as
    in the paper neither that noise nor the one at prediction is clipped to [0, 1]), votes on as
    many noisy copies of an image as `samples` says. The class of most votes is predicted; where the
    two-sided binomial test of the first two cannot tell them apart at level alpha, the image is
    refused. A certificate takes `select` votes to choose a class and `estimate` others to bound its
    share from below (Clopper and Pearson, one-sided, confidence 1 - alpha); the radius is sigma
    Phi^-1(bound) in l2, and below a bound of 1/2 it abstains. The paper uses alpha 0.001, select
    100 and estimate 100,000; a tenth of that, the default here, lowers the largest radius from 3.81
    to 3.20 sigma. batch: noisy copies per call of the net; seed: of the noise trained on; augment:
    false takes the base net as it was given, or trains it without noise.

    Gradient attacks are handed the soft vote: the logarithm of the mean probabilities over
    `standin` noisy copies (Salman et al. 2019, arXiv:1906.04584), the mean over draws around it;
    refused where no class has the share that would decide a vote between two.
    A radius holds for real numbers: float32 rounds x + noise (Voracek, Hein 2022,
    arXiv:2207.07209), which is not accounted for, as in the paper.
    """

    randomness: ClassVar[str] = "Gaussian noise"
    masking: ClassVar[str] = "majority vote"
    rejection: ClassVar[str] = "abstention"
    certifies: ClassVar[tuple[str, ...]] = ("l2",)

    sigma: float = 0.25
    samples: int = 100
    alpha: float = 0.001
    select: int = 100
    estimate: int = 10_000
    standin: int = 1
    batch: int = 256
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be finite and above 0, got {self.sigma}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {self.alpha}")
        for name in ("select", "standin", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        fewest = math.ceil(math.log2(2 / self.alpha))
        if not fewest <= self.samples <= _MOST:
            raise ValueError(
                f"samples must lie in {fewest} .. {_MOST:,} (fewer never decide at alpha = "
                f"{self.alpha}), got {self.samples}"
            )
        fewest = math.floor(math.log2(1 / self.alpha)) + 1
        if self.estimate < fewest:
            raise ValueError(
                f"estimate must be at least {fewest} to certify anything at alpha = {self.alpha}, "
                f"got {self.estimate}"
            )

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense."""
        if self.augment:
            objective = Noisy(self.sigma, seed=self.seed)
            identity = {"noise": {"sigma": self.sigma, "seed": self.seed}}
            net = workshop.fit(objective, identity)
        else:
            net = workshop.undefended()
        vote = Vote(net, self, workshop.classes).to(workshop.device)
        soft = SoftVote(net, self).to(workshop.device)
        return Defended(
            predict=vote,
            surrogate=soft,
            inside=net,
            passes=self.samples,
            certify=vote.certify,
        )


class Vote(Randomised):
    """The smoothed classifier: logits (N, K + 1) are log(votes + 1/2), and in the last column, that
    of refusal, the logarithm of the votes that would have decided between the first two.
    """

    refuses: ClassVar[bool] = True
    decisive: Tensor
    sigma: Tensor

    def __init__(self, net: nn.Module, recipe: Smoothing, classes: int):
        super().__init__()
        self.net, self.recipe, self.classes = net, recipe, classes
        needed = certificates.decisive(recipe.samples, recipe.alpha)
        self.register_buffer("decisive", torch.from_numpy(needed))
        self.register_buffer("sigma", torch.tensor(recipe.sigma))
        self.eval()

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        votes = self.votes(x, draws, "noise", self.recipe.samples)
        needed = self.decisive[votes.topk(2).values.sum(1)]
        # n votes reach m needed ones exactly where log(n + 1/2) is above log(m)
        return torch.cat([votes + 0.5, needed[:, None]], 1).float().log()

    def certify(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """See defenses.base.Certify."""
        recipe = self.recipe
        chosen = self.votes(x, draws, "select", recipe.select).argmax(1)
        votes = self.votes(x, draws, "estimate", recipe.estimate)
        own = votes.gather(1, chosen[:, None])[:, 0].cpu().numpy()
        radii = certificates.radius(own, recipe.estimate, recipe.alpha, recipe.sigma)
        radius = torch.from_numpy(radii).to(x.device)
        return torch.where(radius > 0, chosen, -1), radius

    @torch.no_grad()
    def votes(self, x: Tensor, draws: Draws, purpose: str, count: int) -> Tensor:
        """Votes (N, K) int64 of `count` noisy copies of each image; each copy's noise is its own,
        however many go through the net at once.
        """
        votes = torch.zeros(len(x) * self.classes, dtype=torch.int64, device=x.device)
        for image, number in self._batches(len(x), count, x.device):
            noise = gaussian(draws, x.shape, purpose, image, number)
            said = self.net(noise.mul_(self.sigma).add_(x[image])).argmax(1)
            votes.index_add_(0, image * self.classes + said, torch.ones_like(said))
        return votes.view(len(x), self.classes)

    def _batches(
        self, images: int, count: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (image, number of its copy), in batches of the recipe's size."""
        total = images * count
        for first in range(0, total, self.recipe.batch):
            rows = torch.arange(first, min(first + self.recipe.batch, total), device=device)
            yield rows // count, rows % count


class SoftVote(Randomised):
    """What gradient attacks are handed for a vote; see Smoothing. Logits (N, K + 1).

    The last column is constant, the share of votes that would decide between two classes: an image
    on which the label leads by less counts as the label's, so that losses push beyond abstention.
    """

    refuses: ClassVar[bool] = True
    refusal: Tensor
    sigma: Tensor

    def __init__(self, net: nn.Module, recipe: Smoothing):
        super().__init__()
        self.net, self.copies = net, recipe.standin
        share = certificates.decisive(recipe.samples, recipe.alpha)[-1] / recipe.samples
        self.register_buffer("refusal", torch.tensor(math.log(share)))
        self.register_buffer("sigma", torch.tensor(recipe.sigma))
        self.eval()

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        image = torch.arange(len(x), device=x.device)
        said = [
            F.log_softmax(self.net(x + self.sigma * gaussian(draws, x.shape, "noise", image, i)), 1)
            for i in range(self.copies)
        ]
        soft = torch.stack(said).logsumexp(0) - math.log(self.copies)
        return torch.cat([soft, self.refusal.expand(len(x), 1)], 1)


_HALF = 2**-22


def gaussian(
    draws: Draws, shape: torch.Size, purpose: str, image: Tensor, number: Tensor | int
) -> Tensor:
    """Standard normal float32 (M, ...) for rows of images (M,) int64 and numbers of their copies.

    By the inverse distribution function from 23 bits each, as Draws.normal, but two of them to a
    hash, as certificates take thousands per image.
    """
    own = Draws(draws.seed, draws.ids[image], draws.restart[image])
    size = math.prod(shape[1:])
    words = own.bits(torch.Size((len(image), -(-size // 2))), purpose, number).view(torch.int32)
    normal = (words >> 9).float().add_(0.5).mul_(_HALF).erfinv_().mul_(math.sqrt(2))
    return normal[:, :size].reshape(len(image), *shape[1:])
