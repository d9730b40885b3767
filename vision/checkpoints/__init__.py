"""Weights on disk: our own format and the published ones."""
