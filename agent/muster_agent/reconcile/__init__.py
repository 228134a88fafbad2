"""The reconcile loop: one small machine a bundle, and the runner that carries out what it says."""
