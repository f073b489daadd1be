"""Audit: what it takes to follow a prediction back to the updates behind it, and to check every step."""
