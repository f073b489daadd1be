"""Trials: a version beside the one that serves, answering for some (canary), compared for some (shadow)."""
