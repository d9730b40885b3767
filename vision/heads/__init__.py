"""Heads: pyramids to raw predictions."""
