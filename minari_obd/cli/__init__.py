"""Command line: the verbs of the package as commands.

It imports only from packages below it, and builds on everything.
"""
