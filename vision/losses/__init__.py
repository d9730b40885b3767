"""Losses as pure functions and the sums that train a detector."""
