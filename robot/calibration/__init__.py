"""Calibration: a lens from images of a board, and where the camera sits on or beside the arm (AX = XB)."""
