"""The rivals: one short file each, a function from a fleet and a number of rounds to the sites' parameters."""
