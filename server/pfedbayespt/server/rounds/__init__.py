"""Rounds: one collect, aggregate, publish cycle each."""
