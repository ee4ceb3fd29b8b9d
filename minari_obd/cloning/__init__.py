"""cloning."""
