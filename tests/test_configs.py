"""Every configuration file loads, says in its header how it is run, and survives a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from handeye.tools.show_config import config_type_of
from handeye.vision.config import dump_config, load_config

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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_header_names_the_command(path: Path) -> None:
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"handeye {verb}" in line for line in header for verb in ("train", "pick", "track")), "\n".join(header)
