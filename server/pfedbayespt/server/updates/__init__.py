"""Updates: what sites submit in a round."""
