"""Fine-tuning: cloned policies that go on learning in their environment.

Imports only from packages below it; what it builds on is everything before it.
"""
