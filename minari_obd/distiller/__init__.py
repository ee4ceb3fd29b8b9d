"""Distiller: the outer loop, which moves pairs so that students trained on them hit the targets.

Imports only from packages below it; what it builds on is targets and students.
"""
