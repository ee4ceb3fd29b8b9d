"""Scores: reference scores, means with their intervals, and the evaluation report.

Imports only from packages below it; what it builds on is settings.
"""
