"""Sources: offline datasets, which are collected, read and validated as aligned arrays.

Imports only from packages below it; what it builds on is storage, settings, scores and environments.
"""
