"""What to do next: the protocol and the policies behind it."""
