"""Arguments of every verb that tracks boxes: which tracker and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from handeye._stream import TrackerName, tracker_config
from handeye.vision.tracking.image_tracker import BoxTrackingConfig


@dataclass(frozen=True, kw_only=True)
class TrackerArguments:
    """The tracker; overrides may follow as `tracker.key=value`."""

    tracker: TrackerName | None = None
    """The tracker, with the settings of its paper; bytetrack by default."""
    config: Path | None = None
    """A configuration such as configs/robot/tracking_bytetrack.yaml, instead of --tracker."""

    def load_config(self, overrides: Sequence[str]) -> BoxTrackingConfig:
        """The configuration that these arguments ask for. Raises UserError where they contradict each other."""
        return tracker_config(self.tracker, self.config, overrides)
