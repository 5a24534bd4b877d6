"""Models: nets, recipes, the one classifier training loop, and the one reader and writer of
weights.
"""
