"""Distillation: one run from source to distilled dataset, and the run that judges it beside its baselines.

It imports only from packages below it, and builds on everything before it.
"""
