"""Scores: reference scores, means with their intervals, and the report of an evaluation.

Imports only from packages below it; what it builds on is settings.
"""
