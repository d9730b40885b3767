"""COCO metrics, curves and speed."""
