"""Annotated images: reading, checking, augmenting, batching."""
