"""Strict YAML: unknown and duplicate keys are refused with their path, overrides are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from handeye.vision.config import Config, dump_config, load_config, parse_overrides, validate_config
from handeye.vision.errors import ConfigError


class Optimizer(Config):
    learning_rate: float = Field(default=0.01, gt=0)
    """Step size."""
    milestones: tuple[int, ...] = ()
    """Epochs."""


class Training(Config):
    optimizer: Optimizer = Optimizer()
    """The optimizer."""
    name: str = "run"
    """A name."""


class Sgd(Config):
    kind: Literal["sgd"] = "sgd"
    lr: float
    momentum: float = 0.9


class Adam(Config):
    kind: Literal["adam"] = "adam"
    lr: float = 1e-3


class Recipe(Config):
    optimizer: Annotated[Sgd | Adam, Field(discriminator="kind")] = Sgd(lr=0.1, momentum=0.5)


class Study(Config):
    recipe: Recipe = Recipe(optimizer=Sgd(lr=0.2))


class Limits(Config):
    is_given_whole: ClassVar[bool] = True

    reach_m: float
    speed_m_s: float = 1.0


class Arm(Config):
    limits: Limits = Limits(reach_m=0.8, speed_m_s=0.5)
    name: str = "arm"


class Cell(Config):
    arm: Arm = Arm()


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_states_only_the_difference(tmp_path: Path) -> None:
    config = load_config(Training, write(tmp_path, "optimizer: {learning_rate: 1e-4}\n"))
    assert config.optimizer.learning_rate == 1e-4  # PyYAML reads 1e-4 as text; the type makes it a number
    assert config.name == "run"


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(Training, write(tmp_path, "")) == Training()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer: {learning_rte: 1}", ["optimizer.learning_rte", "did you mean learning_rate"]),
        ("optimizer: {learning_rate: -1}", ["optimizer.learning_rate", "greater than 0", "-1"]),
        ("name: a\nname: b", ["duplicate key 'name'"]),
        ("optimizer: {learning_rate: 1, learning_rate: 2}", ["duplicate key 'learning_rate'"]),
        ("- 1", ["expected a mapping", "list"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_mistakes_are_named_with_their_path(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Training, write(tmp_path, text))
    for word in [*words, "config.yaml"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["recipe.optimizer.momentum=0"], Sgd(lr=0.2, momentum=0)),
        (["recipe.optimizer={kind: sgd, momentum: 0}"], Sgd(lr=0.2, momentum=0)),
        (["recipe.optimizer.kind=adam"], Adam()),
        (["recipe.optimizer.kind=adam", "recipe.optimizer.lr=2"], Adam(lr=2)),
    ],
)
def test_a_group_given_in_part_keeps_the_rest_of_its_default(words: list[str], expected: Config) -> None:
    assert load_config(Study, None, words) == Study(recipe=Recipe.model_construct(optimizer=expected))


def test_a_group_begins_with_the_default_where_it_stands() -> None:
    assert load_config(Recipe, None, ["optimizer.lr=1"]) == Recipe(optimizer=Sgd(lr=1, momentum=0.5))


def test_another_kind_does_not_inherit() -> None:
    with pytest.raises(ConfigError, match="optimizer.momentum: unknown key"):
        load_config(Recipe, None, ["optimizer={kind: adam, momentum: 0}"])


def test_a_group_that_is_given_whole_is_not_completed_by_its_default(tmp_path: Path) -> None:
    partial = write(tmp_path, "limits: {speed_m_s: 2}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: limits\.reach_m: Field required"):
        load_config(Arm, partial)
    assert load_config(Arm, partial, ["limits.reach_m=0.9"]).limits == Limits(reach_m=0.9, speed_m_s=2.0)
    with pytest.raises(ConfigError, match=r"limits\.reach_m"):
        validate_config(Arm, {"limits": {"speed_m_s": 2.0}}, origin="content")
    assert load_config(Arm, write(tmp_path, "name: left\n")).limits == Arm().limits


@pytest.mark.parametrize("word", ["limits.speed_m_s=2", "--limits.speed-m-s=2"])
def test_the_command_line_changes_single_keys_of_a_group_that_is_given_whole(tmp_path: Path, word: str) -> None:
    for path in (None, write(tmp_path, "name: left\n")):
        assert load_config(Arm, path, [word]).limits == Limits(reach_m=0.8, speed_m_s=2.0)
    given = write(tmp_path, "limits: {reach_m: 0.3, speed_m_s: 0.1}\n")
    assert load_config(Arm, given, [word]).limits == Limits(reach_m=0.3, speed_m_s=2.0)
    nested = word.replace("limits", "arm.limits")
    assert load_config(Cell, None, [nested]).arm.limits == Limits(reach_m=0.8, speed_m_s=2.0)
    with pytest.raises(ConfigError, match="did you mean speed_m_s"):
        load_config(Arm, None, ["limits.sped_m_s=2"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(Training, tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.learning_rate=0.5", "optimizer.milestones=[1, 2]"],
        ["--optimizer.learning-rate", "0.5", "--optimizer.milestones", "[1, 2]"],
        ["--optimizer.learning-rate=0.5", "--optimizer.milestones=[1,2]"],
    ],
)
def test_the_command_line_overrides_the_file(tmp_path: Path, words: list[str]) -> None:
    config = load_config(Training, write(tmp_path, "optimizer: {learning_rate: 0.1}"), words)
    assert config.optimizer == Optimizer(learning_rate=0.5, milestones=(1, 2))


@pytest.mark.parametrize("words", [["optimizer"], ["--optimizer.learning-rate"], ["a=[1"]])
def test_overrides_without_a_value_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="override"):
        parse_overrides(words)


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a group of keys"):
        load_config(Training, write(tmp_path, "name: a"), ["name.first=b"])


def test_a_dumped_config_reads_back(tmp_path: Path) -> None:
    config = Training(optimizer=Optimizer(milestones=(3,)))
    assert load_config(Training, write(tmp_path, dump_config(config))) == config
