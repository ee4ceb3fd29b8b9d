"""Teachers: policies with values, trained, loaded or brought, and frozen before distillation starts.

Imports only from packages below it; what it builds on is sources.
"""
