"""Settings: recipes and protocols, read from TOML and checked. Plain data, without torch.

Imports only from packages below it; what it builds on is support.
"""
