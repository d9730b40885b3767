"""Training of policies: ACT, data, checkpoints, export. The only part of robot that imports torch."""
