"""Experiments: grids of runs, their cells, tables and report pages.

Imports only from packages below it; what it builds on is everything before it.
"""
