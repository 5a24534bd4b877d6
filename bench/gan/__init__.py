"""What `bench gan` does: a generator trained or loaded, looked at from every side, and measured.

`task` refuses what cannot be carried out, `looking` carries it out; the other modules measure one
thing each.
"""
