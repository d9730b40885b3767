"""Trajectories and set-points: jerk-limited motion, interpolation of action chunks."""
