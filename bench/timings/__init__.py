"""What this machine takes for steps, sweeps, starts and purification, each over the least that its
definition needs; `bench time` and `tests/benchmarks` measure the same.
"""
