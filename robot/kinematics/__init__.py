"""The arm's geometry: forward, inverse, limits."""
