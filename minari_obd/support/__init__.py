"""Support: devices, interrupts, progress bars, optional libraries and whatever else knows nothing of distillation.

It imports only from packages below it, and builds on errors.
"""
