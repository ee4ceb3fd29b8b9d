"""Distillation: one run from source to distilled dataset, and the run that judges it beside its baselines.

Imports only from packages below it; what it builds on is everything before it.
"""
