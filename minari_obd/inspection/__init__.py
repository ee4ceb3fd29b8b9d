"""Inspection: whether a distilled dataset is what it claims to be, and what explains its score.

It imports only from packages below it, and builds on everything before it.
"""
