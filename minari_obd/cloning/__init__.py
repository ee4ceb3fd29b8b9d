"""Cloning: policies trained from pairs.

It imports only from packages below it, and builds on students and distilled.
"""
