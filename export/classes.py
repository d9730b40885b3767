"""A detector for fewer classes: the rows of the class predictions that are wanted, everything else as it was.

A detector may be trained with a class that only teaches it (everything that is no cube, say); what is deployed need
not name it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vision.detector import Detector, DetectorConfig
from vision.errors import UserError


def keep_classes(detector: Detector, class_names: Sequence[str]) -> Detector:
    """A detector in eval mode that predicts `class_names`, in this order, exactly as `detector` does.

    Raises UserError for a class that `detector` does not know, and when none is named.
    """
    known = detector.config.class_names
    unknown = [name for name in class_names if name not in known]
    if unknown or not class_names:
        raise UserError(f"expected classes out of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
    rows = torch.tensor([known.index(name) for name in class_names])
    content = detector.config.model_dump() | {"class_names": tuple(class_names), "num_classes": len(class_names)}
    smaller = Detector(DetectorConfig.model_validate(content))
    weights = detector.state_dict()
    for key in weights:
        if ".predict_class." in key:
            weights[key] = weights[key][rows]
    smaller.load_state_dict(weights)
    return smaller.eval()
