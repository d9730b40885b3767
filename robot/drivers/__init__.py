"""Arms and grippers behind one protocol."""
