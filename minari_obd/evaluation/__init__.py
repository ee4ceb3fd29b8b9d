"""Evaluation: returns of distilled datasets, policies and teachers in their environments.

It imports only from packages below it, and builds on cloning and teachers.
"""
