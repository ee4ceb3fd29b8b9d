"""Environments: made from plain registered ids, stepped in lockstep, rolled out over the cores.

It imports only from packages below it, and builds on support.
"""
