"""Kubernetes objects and the documents they are written in, as plain values."""
