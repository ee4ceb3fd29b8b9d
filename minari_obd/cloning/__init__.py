"""Cloning: policies trained from pairs.

Imports only from packages below it; what it builds on is students and distilled.
"""
