"""What every verb that tracks boxes is told: which tracker and how it is set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.tracking.image_tracker import BoxTrackingConfig

TrackerName = Literal["sort", "bytetrack", "ocsort"]


@dataclass(frozen=True, kw_only=True)
class TrackerArguments:
    """The tracker; overrides may follow as `tracker.key=value`."""

    tracker: TrackerName | None = None
    """Which tracker, with the settings of its paper; bytetrack where there is no --config either."""
    config: Path | None = None
    """A file of settings such as configs/robot/tracking_bytetrack.yaml, instead of --tracker."""

    def load(self, overrides: Sequence[str]) -> BoxTrackingConfig:
        """The configuration that these arguments ask for. Raises UserError where they contradict each other."""
        if self.config is not None and self.tracker is not None:
            raise UserError("--tracker and --config both choose a tracker; give one of them")
        kind = [] if self.config is not None else [f"tracker.kind={self.tracker or 'bytetrack'}"]
        return load_config(BoxTrackingConfig, self.config, [*kind, *overrides])
