"""Whether a number is to be believed: what is looked at beside the attacks, and what it says of
them.
"""
