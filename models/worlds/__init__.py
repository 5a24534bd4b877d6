"""Games so small that their answers are known: one dimension, a saddle, discrete distributions, and
mixtures of Gaussians in the plane. float64 throughout but for the mixtures' samples.
"""
