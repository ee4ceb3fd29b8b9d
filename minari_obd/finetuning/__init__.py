"""Fine-tuning: cloned policies that go on learning in their environment.

It imports only from packages below it, and builds on everything before it.
"""
