"""Intervals, paired tests and resampling for accuracies; never imports torch."""

from bench.stats.intervals import (
    ALPHA,
    Interval,
    clopper_pearson,
    half_width,
    needed_for,
    student,
    wilson,
    wilson_bounds,
)
from bench.stats.paired import holm, mcnemar, mcnemar_p, needed, power_note, smallest_drop
from bench.stats.resampling import DrawMean, mean_over_draws, resampled_mean, resampled_median

__all__ = [
    "ALPHA",
    "DrawMean",
    "Interval",
    "clopper_pearson",
    "half_width",
    "holm",
    "mcnemar",
    "mcnemar_p",
    "mean_over_draws",
    "needed",
    "needed_for",
    "power_note",
    "resampled_mean",
    "resampled_median",
    "smallest_drop",
    "student",
    "wilson",
    "wilson_bounds",
]
