"""Identity over time."""
