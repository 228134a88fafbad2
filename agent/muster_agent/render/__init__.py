"""From files to objects: plain manifests, kustomize, substitution."""
