"""Distiller: the outer loop, which moves pairs so that students trained on them hit the targets.

It imports only from packages below it, and builds on targets and students.
"""
