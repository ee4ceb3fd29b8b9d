"""Sources: offline datasets, which are collected, read and validated as aligned arrays.

It imports only from packages below it, and builds on storage, settings, scores and environments.
"""
