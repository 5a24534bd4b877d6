"""A support vector machine with a Gaussian kernel: fitted by scikit-learn, evaluated by torch."""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import Tensor, nn

LIBRARY = "scikit-learn"


def library() -> str:
    """Name and version of what fits it, without importing that."""
    return f"{LIBRARY} {version(LIBRARY)}"


class RbfSvm(nn.Module):
    """The decision function of an RBF SVM: sum_i dual_i exp(-gamma ||c - support_i||^2) + bias.

    support (S, U), dual (S,), gamma and bias are float32 buffers; fit once in float64.
    """

    support: Tensor
    dual: Tensor
    gamma: Tensor
    bias: Tensor

    def __init__(self, support: Tensor, dual: Tensor, gamma: Tensor, bias: Tensor):
        super().__init__()
        for name, value in (("support", support), ("dual", dual), ("gamma", gamma), ("bias", bias)):
            self.register_buffer(name, value.float())

    @classmethod
    def fitted(cls, points: Tensor, positive: Tensor, c: float) -> RbfSvm:
        """From points (M, U) and whether (M,) each is positive; gamma = 1 / (U var(points)), as
        scikit-learn's `scale`.
        """
        from sklearn.svm import SVC  # costs a second

        # random_state decides nothing here; without it numpy's global generator is drawn from
        machine = SVC(C=c, kernel="rbf", gamma="scale", random_state=0)
        found = machine.fit(points.double().cpu().numpy(), positive.long().cpu().numpy())
        made = cls(
            torch.from_numpy(found.support_vectors_),
            torch.from_numpy(found.dual_coef_[0]),
            torch.tensor(float(found._gamma)),
            torch.tensor(float(found.intercept_[0])),
        )
        return made.to(points.device)

    def forward(self, points: Tensor) -> Tensor:
        """Decisions (N,) of points (N, U), above 0 for the positive side."""
        norms = points.pow(2).sum(1)[:, None] + self.support.pow(2).sum(1)
        distance = (norms - 2 * points @ self.support.T).clamp(min=0)
        decisions: Tensor = (-self.gamma * distance).exp() @ self.dual + self.bias
        return decisions
