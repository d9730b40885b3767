"""From checkpoint to artefact: export, parity, quantisation, engines."""
