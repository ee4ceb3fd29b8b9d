"""Storage: files written whole or not at all, Minari datasets, torch checkpoints and Hub repositories.

Imports only from packages below it; what it builds on is support.
"""
