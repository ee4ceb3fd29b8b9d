"""Scores: reference scores, means with their intervals, and the evaluation report.

It imports only from packages below it, and builds on settings.
"""
