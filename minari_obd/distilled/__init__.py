"""Distilled datasets: the pairs, what is known of them, and their renderings as folder, Minari dataset and repository.

It imports only from packages below it, and builds on sources and scores.
"""
