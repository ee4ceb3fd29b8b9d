"""Environments: made from plain registered ids, stepped in lockstep, rolled out over the cores.

Imports only from packages below it; what it builds on is support.
"""
