"""Keys, and the one secret file that N clusters open each with their own (DESIGN §7, format 1)."""
