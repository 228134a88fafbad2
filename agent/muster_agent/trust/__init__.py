"""What this cluster takes from anybody: trust documents, heads, releases, and the floors that never sink."""
