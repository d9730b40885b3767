"""What TensorRT says while it works: its errors are told by its log and nowhere else."""

from __future__ import annotations

import tensorrt as trt


class MessageLog(trt.ILogger):
    """Keeps errors and warnings; the rest is let go."""

    def __init__(self) -> None:
        super().__init__()  # the binding insists on its own constructor
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        line = " ".join(msg.split())
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self.errors.append(line)
        elif severity == trt.ILogger.Severity.WARNING:
            self.warnings.append(line)

    @property
    def last_error(self) -> str:
        """The newest error, or that there was none."""
        return self.errors[-1] if self.errors else "it does not say why"
