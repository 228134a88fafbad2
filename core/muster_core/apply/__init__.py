"""What to do to a cluster so that it is what a release says: pure, as values."""
