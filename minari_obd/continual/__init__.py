"""Continual learning: one policy that learns tasks in sequence, with distilled pairs as its memory.

It imports only from packages below it, and builds on everything before it.
"""
