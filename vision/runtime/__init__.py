"""Detection without torch: sessions, decoding, sources, drawing."""
