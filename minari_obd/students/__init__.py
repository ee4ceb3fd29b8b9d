"""Students: policy networks, and their training as a differentiable function of the pairs.

Imports only from packages below it; what it builds on is settings.
"""
