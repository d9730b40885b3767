"""From boxes and depth to positions in the base frame."""
