"""`handeye train` in double precision, where rounding does not hide whether two trainings are one.

With batch norms a fresh network multiplies the rounding of single precision by thousands within a few steps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tools.command_line import run_command
from vision.training import train_detector


@contextmanager
def double_precision() -> Iterator[None]:
    """New weights and normalised images are of double precision; the losses stay single, as they are written."""
    normalise_images = train_detector.normalise_images

    def normalise_in_double(*arguments: Any) -> torch.Tensor:
        return normalise_images(*arguments).double()

    train_detector.normalise_images = normalise_in_double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        train_detector.normalise_images = normalise_images


if __name__ == "__main__":
    with double_precision():
        sys.exit(run_command(["train", *sys.argv[1:]]))
