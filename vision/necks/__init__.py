"""Necks: feature maps to a pyramid."""
