"""COCO metrics, matching, curves, and checkpoints run in torch."""
