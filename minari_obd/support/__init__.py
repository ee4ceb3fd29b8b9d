"""Support: devices, interrupts, progress bars, optional libraries and whatever else knows nothing of distillation.

Imports only from packages below it; what it builds on is errors.
"""
