"""Every configuration file loads, says in its header how it is run, and survives a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from handeye.robot.control.safety import SafetyConfig
from handeye.robot.pick import PickConfig
from handeye.tools.show_config import config_type_of
from handeye.vision.config import dump_config, load_config, read_yaml
from handeye.vision.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(config_type_of(path), path)
    copy = tmp_path / path.name
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(type(config), copy) == config


@pytest.mark.parametrize("name", ["pick.yaml", "pick_images.yaml"])
def test_every_limit_of_the_safety_gates_is_written_out(name: str, tmp_path: Path) -> None:
    path = ROOT / "configs" / "robot" / name
    limits = read_yaml(path)["safety"]
    assert limits.keys() == SafetyConfig.model_fields.keys()
    assert load_config(PickConfig, path).safety == PickConfig().safety
    for missing in limits:
        copy = tmp_path / name
        copy.write_text(yaml.safe_dump({"safety": {key: limits[key] for key in limits if key != missing}}))
        with pytest.raises(ConfigError, match=rf"{name}: safety\.{missing}: Field required"):
            load_config(PickConfig, copy)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_header_names_the_command(path: Path) -> None:
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"handeye {verb}" in line for line in header for verb in ("train", "pick", "track")), "\n".join(header)
