"""Evaluation: returns of distilled datasets, policies and teachers in their environments.

Imports only from packages below it; what it builds on is cloning and teachers.
"""
