"""Targets: what a student should do in each state, the methods that build targets, and those that select pairs.

Imports only from packages below it; what it builds on is sources, teachers and densities.
"""
