"""Students: policy networks, and their training as a differentiable function of the pairs.

It imports only from packages below it, and builds on settings.
"""
