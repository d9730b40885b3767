"""Print a configuration as it is resolved: every key, with the defaults written out.

examples:
  handeye show-config configs/robot/pick.yaml
  handeye show-config configs/detector/bccd_nano.yaml epochs=30
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from handeye.tools.command_line import Positional
from handeye.vision.config import Config, dump_config, load_config, read_yaml
from handeye.vision.errors import ConfigError
from handeye.vision.files import write_json
from handeye.vision.tracking.image_tracker import BoxTrackingConfig


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye show-config`; overrides may follow as `key.path=value`."""

    config: Positional[Path]
    """Configuration file of any kind: of a detector's or a policy's training, of tracking, or of the robot."""
    json: Path | None = None
    """Write the resolved configuration to this file too."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Print the resolved configuration as YAML."""
    config = load_any_config(arguments.config, overrides)
    print(dump_config(config), end="")
    if arguments.json is not None:
        write_json(arguments.json, config.model_dump(mode="json"))
    return 0


def load_any_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Load a configuration whose kind follows from its folder, or by its keys where it lies elsewhere."""
    return load_config(config_type_of(path), path, overrides)


def config_type_of(path: Path) -> type[Config]:
    """The type of configuration that a file holds; ConfigError where neither folder nor keys tell."""
    path = Path(path)
    keys, folder = set(read_yaml(path)), path.resolve().parent.name
    if keys and keys <= set(BoxTrackingConfig.model_fields):
        return BoxTrackingConfig
    if folder == "detector" or "detector" in keys:
        return _training_config()
    if folder == "policy" or "policy" in keys:
        return _policy_config()
    if folder == "robot" or keys & set(_pick_config().model_fields):
        return _pick_config()
    raise ConfigError(
        f"{path}: neither its folder nor its keys ({', '.join(sorted(keys)) or 'none'}) tell whether it configures a "
        "detector's training, a policy's or the robot; put it in a folder named detector, policy or robot"
    )


def _training_config() -> type[Config]:
    """Imported only for such a file: it needs torch."""
    from handeye.vision.training.config import TrainDetectorConfig

    return TrainDetectorConfig


def _policy_config() -> type[Config]:
    """Imported only for such a file: it needs torch."""
    from handeye.robot.learning.config import TrainPolicyConfig

    return TrainPolicyConfig


def _pick_config() -> type[Config]:
    """Imported only for such a file: it needs the simulator."""
    from handeye.robot.pick import PickConfig

    return PickConfig
