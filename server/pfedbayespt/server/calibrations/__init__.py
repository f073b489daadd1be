"""Calibrations: what makes a version's doubt mean what it says, pooled from what sites tell of held-out images."""
