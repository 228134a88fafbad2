"""Who this cluster is: keys, certificate, and how it became known."""
