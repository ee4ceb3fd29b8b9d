"""Densities: how common a state is in the data, and the tempered weights that favour rare states.

It imports only from packages below it, and builds on support.
"""
