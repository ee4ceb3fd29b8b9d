"""Command line: the verbs of the package as commands.

Imports only from packages below it; what it builds on is everything.
"""
