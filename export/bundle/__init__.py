"""Bundles for a device: packing, the index, and verification there."""
