"""Cameras: one protocol, pinhole intrinsics, devices and recordings."""
