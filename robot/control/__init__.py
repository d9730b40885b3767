"""The loop, its gates, trajectories, timing and records."""
