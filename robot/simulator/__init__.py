"""A MuJoCo work cell: scene, arm, camera, faults, labelled renders."""
