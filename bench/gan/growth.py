"""What a generator covers, while it was trained and in the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.gan.eye import Eye
from bench.report.gan import findings
from bench.report.gan.portrait import Finding, History, Look
from models.coverage import coverage, tally
from models.gan import Album

_DRAWN = 10
"""Images of each page of an album that are drawn."""
_LEVELS = 255
IGNORING = "latent ignored"
"""What samples that cannot depend on their latents are named."""


def look(x: Tensor, eye: Eye, prior: Sequence[int], update: int | None = None) -> Look:
    """The classes of images x (N, C, H, W) beside a prior, counts per class."""
    found = tally(eye.labels(x).cpu(), len(prior))
    return Look(update, tuple(found.tolist()), coverage(found, prior))


def history(album: Album, eye: Eye, prior: Sequence[int], device: torch.device) -> History | None:
    """What the pages of an album show, in order; None of an empty one."""
    if not album:
        return None
    updates = sorted(album)
    looks = tuple(look(_page(album, at).to(device), eye, prior, at) for at in updates)
    drawn = torch.stack([_page(album, at)[:_DRAWN] for at in updates]).numpy()
    return History(tuple(updates), drawn, looks, findings.over_time(looks))


def _page(album: Album, update: int) -> Tensor:
    return album[update].float() / _LEVELS


def failures(past: History | None, final: Look, *, ignores_latent: bool) -> tuple[Finding, ...]:
    """What is wrong by name: with the generator as it is, and before."""
    looks, before = ((), ()) if past is None else (past.looks, past.findings)
    made = list(findings.now(final, looks))
    if ignores_latent:
        text = "the samples lie less than a tenth as far apart as training images"
        made.append(Finding(IGNORING, text))
    return (*made, *before)
