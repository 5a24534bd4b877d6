"""The regression gate: a run against the outcomes that were committed; never imports torch."""
