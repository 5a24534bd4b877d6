"""Network architectures: images (N, C, H, W) in [0, 1] to logits (N, K), the autoencoder to images,
the encoder to latents; normalisation is a layer inside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
_SMALL = 512


def is_small(shape: Shape) -> bool:
    """Whether images (C, H, W) have so few components that short training and search will do."""
    return math.prod(shape) < _SMALL


class Centre(nn.Module):
    """(x - 1/2) / (1/4): pixels to about zero mean and unit variance, whatever the data set."""

    def forward(self, x: Tensor) -> Tensor:
        """Centred images (N, C, H, W)."""
        return (x - 0.5) * 4


def logreg(shape: Shape, classes: int) -> nn.Module:
    """Softmax regression on pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """Two hidden layers of 100 sigmoid units."""
    sizes = (math.prod(shape), 100, 100)
    hidden = [
        layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Sigmoid())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, classes))


def mlp_relu(shape: Shape, classes: int) -> nn.Module:
    """Two hidden layers of 200 rectified units."""
    sizes = (math.prod(shape), 200, 200)
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(200, classes))


def cnn_small(shape: Shape, classes: int) -> nn.Module:
    """Two convolutions 4x4 of stride 2 (16 and 32 channels), a hidden layer of 100."""
    channels, height, width = shape
    features = 32 * (height // 4) * (width // 4)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def cnn(shape: Shape, classes: int) -> nn.Module:
    """Two convolutions 5x5 (32 and 64 channels), each pooled by 2, a hidden layer of 1024."""
    channels, height, width = shape
    net = nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 1024),
        nn.ReLU(),
        nn.Linear(1024, classes),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
            nn.init.constant_(layer.bias, 0.1) if layer.bias is not None else None
    return net


class _PreActivation(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, added to the (projected) input."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, H / stride, W / stride)."""
        active = self.relu1(self.norm1(x))
        around = x if self.shortcut is None else self.shortcut(active)
        inner: Tensor = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        return inner + around


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """Pre-activation ResNet-18 for small images: four stages of two blocks, 64 to 512 channels."""
    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [b for i, o, s in stages for b in (_PreActivation(i, o, s), _PreActivation(o, o, 1))]
    return nn.Sequential(
        Centre(),
        nn.Conv2d(shape[0], 64, 3, padding=1, bias=False),
        *blocks,
        nn.BatchNorm2d(512),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, classes),
    )


class MeanProbability(nn.Module):
    """Several nets as one: the logarithm of the mean of their probabilities.

    Its cross-entropy is -log(sum_i alpha_i softmax_i(x)_y) with equal alpha, the loss of Liu et al.
    (2017, arXiv:1611.02770, section 4.1).
    """

    def __init__(self, nets: Sequence[nn.Module]):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, K), which are logits too."""
        said = torch.stack([net(x).log_softmax(1) for net in self.nets])
        return said.logsumexp(0) - math.log(len(self.nets))


def autoencoder(shape: Shape) -> nn.Module:
    """Images to images in [0, 1]: five convolutions 3x3 with sigmoids, three channels each, half
    the size from the second to the third (Meng, Chen 2017, arXiv:1705.09064, the MNIST reformer).

    The paper's layout for images of any shape: its last layer has one channel and its net for
    CIFAR-10 pools nothing; here images of every kind are pooled, an odd side is rounded down.
    """
    channels, height, width = shape
    inner = 3

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Sigmoid()]

    return nn.Sequential(
        *layer(channels, inner),
        nn.AvgPool2d(2),
        *layer(inner, inner),
        *layer(inner, inner),
        nn.Upsample(size=(height, width)),
        *layer(inner, inner),
        *layer(inner, channels),
    )


def encoder(shape: Shape, latent: int) -> nn.Module:
    """Images to `latent` numbers: two convolutions 4x4 of stride 2 (32 and 64 channels) and a
    hidden layer of 256.
    """
    channels, height, width = shape
    return nn.Sequential(
        Centre(),
        nn.Conv2d(channels, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 256),
        nn.ReLU(),
        nn.Linear(256, latent),
    )
