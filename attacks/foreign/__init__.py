"""Attacks of others: a module per library, and callables of the user's own."""
