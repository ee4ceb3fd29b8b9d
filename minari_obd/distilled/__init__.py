"""Distilled datasets: the pairs, what is known of them, and their renderings as folder, Minari dataset and repository.

Imports only from packages below it; what it builds on is sources and scores.
"""
