"""Organisations, and the federations that they take part in."""
