"""Federations: one collaboration each, with its specification, its initial parameters and its state."""
