"""Storage: files written whole or not at all, Minari datasets, torch checkpoints and Hub repositories.

It imports only from packages below it, and builds on support.
"""
