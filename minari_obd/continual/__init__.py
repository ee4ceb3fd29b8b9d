"""Continual learning: one policy that learns tasks in sequence, with distilled pairs as its memory.

Imports only from packages below it; what it builds on is everything before it.
"""
