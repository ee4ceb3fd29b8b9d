"""distiller."""
