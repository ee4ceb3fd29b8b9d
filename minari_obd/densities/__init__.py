"""Densities: how common a state is in the data, and the tempered weights that favour rare states.

Imports only from packages below it; what it builds on is support.
"""
