"""Detectors: from pixels to boxes, trained with torch and run without it.

Import order, low to high: config, files, images, boxes < layers < backbones, necks, heads < detector <
assignment, losses < checkpoints < data < runtime (leans on config, images, boxes only) < evaluation < training.
"""
