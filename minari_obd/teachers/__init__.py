"""Teachers: policies with values, trained, loaded or brought, and frozen before distillation starts.

It imports only from packages below it, and builds on sources.
"""
