"""Tracking in the image: SORT, ByteTrack, OC-SORT, camera motion, MOT files and metrics."""
