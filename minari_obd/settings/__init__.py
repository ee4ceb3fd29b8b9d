"""Settings: recipes and protocols, read from TOML and checked. Plain data, without torch.

It imports only from packages below it, and builds on support.
"""
