"""Inspection: whether a distilled dataset is what it claims to be, and what is behind its score.

Imports only from packages below it; what it builds on is everything before it.
"""
