"""API keys: how programs that are no sites, and people without the admin token, are let in."""
