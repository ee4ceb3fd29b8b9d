"""Dynamics: an ensemble learned from the data, which says where a policy would go without the environment."""
