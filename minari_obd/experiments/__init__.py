"""Experiments: grids of runs, their cells, tables and report pages.

It imports only from packages below it, and builds on everything before it.
"""
