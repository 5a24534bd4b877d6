"""Defenses whose truth is known, planted to see whether an evaluation is fooled by them: what
`bench selftest` runs.
"""
