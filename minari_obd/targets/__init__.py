"""Targets: what a student should do in each state, the methods that build targets, and those that select pairs.

It imports only from packages below it, and builds on sources, teachers and densities.
"""
