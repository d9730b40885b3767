"""Backbones: images to feature maps, fine to coarse."""
