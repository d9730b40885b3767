"""Load and validate typed configurations (pydantic): YAML overrides the defaults in code, command line overrides YAML.

A group of keys that is given in part keeps the rest of its default, its `kind` included; naming another kind starts
from that kind's defaults. Groups that are `is_given_whole` keep nothing: a file gives them in full or leaves them out.
Unknown and duplicate keys are errors that name the path of the key. Overrides are written `key.path=value` or
`--key.path value`; a dash and an underscore mean the same there.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from handeye.vision.errors import ConfigError

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Root of every configuration: frozen, unknown keys are errors, attribute docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    is_given_whole: ClassVar[bool] = False
    """Whether a file that gives a key of this group must give them all. A command line may still change single ones."""

    @model_validator(mode="before")
    @classmethod
    def _complete_groups(cls, content: Any) -> Any:
        """Lay what is given of each group over the group's default."""
        if not isinstance(content, Mapping):
            return content
        fields = cls.model_fields
        return {
            key: _lay_over(fields[key].default, value) if key in fields else value for key, value in content.items()
        }


def _lay_over(default: Any, given: Any) -> Any:
    """`given`, completed by a default of the same kind where both are groups."""
    if not isinstance(default, Config) or not isinstance(given, Mapping) or default.is_given_whole:
        return given
    kind = getattr(default, "kind", None)
    if given.get("kind", kind) != kind:
        return given
    defaults = {name: getattr(default, name) for name in type(default).model_fields}
    return defaults | {key: _lay_over(defaults.get(key), value) for key, value in given.items()}


def load_config(config_type: type[C], path: Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file into `config_type` and apply command line overrides; without a file only the defaults are read.

    Raises ConfigError, naming the file and the path of each offending key.
    """
    content = {} if path is None else read_yaml(path)
    for keys, value in parse_overrides(overrides):
        _give_whole_groups(config_type, content, keys)
        _set_nested(content, keys, value)
    return validate_config(config_type, content, origin="overrides" if path is None else str(path))


def validate_config(config_type: type[C], content: Mapping[str, Any], origin: str) -> C:
    """Check `content` against `config_type`; ConfigError names `origin` and every key at fault."""
    try:
        return config_type.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_explain(error, config_type))) from error


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, a duplicate key is an error; an empty file is an empty mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file: {error}") from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {type(content).__name__}")
    return content


def parse_overrides(overrides: Sequence[str]) -> list[tuple[list[str], Any]]:
    """Turn `a.b=1`, `--a.b 1` and `--a.b=1` into ([a, b], 1); values are read as YAML."""
    parsed: list[tuple[list[str], Any]] = []
    pending = list(overrides)
    while pending:
        word = pending.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not pending:
                raise ConfigError(f"override {word!r}: expected key.path=value or --key.path value")
            value = pending.pop(0)
        parsed.append((key.replace("-", "_").split("."), _parse_value(key, value)))
    return parsed


def _parse_value(key: str, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"override {key}: {text!r} is not a YAML value") from error


def _give_whole_groups(config_type: type[Config], content: dict[str, Any], keys: list[str]) -> None:
    """Write out the default of a group that is given whole, where a key of it changes that the file leaves out."""
    fields = config_type.model_fields
    for key in keys[:-1]:
        default = fields[key].default if key in fields else None
        if not isinstance(default, Config):
            return
        if default.is_given_whole:
            content.setdefault(key, default.model_dump())
        child = content.setdefault(key, {})
        if not isinstance(child, dict):
            return
        content, fields = child, type(default).model_fields


def _set_nested(content: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for position, key in enumerate(parents):
        child = content.setdefault(key, {})
        if not isinstance(child, dict):
            path = ".".join(keys[: position + 1])
            raise ConfigError(f"override {'.'.join(keys)}: {path} is {child!r}, not a group of keys")
        content = child
    content[last] = value


def _explain(error: ValidationError, config_type: type[Config]) -> list[str]:
    messages = []
    kinds = _all_kinds(config_type)
    for detail in error.errors():
        # Pydantic puts the kind that was chosen into the path, where no such key is written.
        path = ".".join(str(part) for part in detail["loc"] if part not in kinds)
        if detail["type"] == "union_tag_not_found":
            messages.append(f"{path}.kind: missing; without it nobody knows what the keys beside it are of")
        elif detail["type"] == "union_tag_invalid":
            context = detail.get("ctx", {})
            messages.append(f"{path}.kind: expected one of {context['expected_tags']}, got {context['tag']!r}")
        elif detail["type"] == "extra_forbidden":
            hint = difflib.get_close_matches(str(detail["loc"][-1]), _all_keys(config_type), n=1)
            suggestion = f"; did you mean {hint[0]}?" if hint else ""
            messages.append(f"{path}: unknown key{suggestion}")
        else:
            # What is wrong with a whole group its check says itself; the group in full would bury it.
            is_group = detail["type"] == "value_error" and isinstance(detail["input"], dict | Config)
            given = "" if detail["type"] == "missing" or is_group else f", got {detail['input']!r}"
            messages.append(f"{path or 'configuration'}: {detail['msg'].removeprefix('Value error, ')}{given}")
    return messages


def _all_kinds(config_type: type[Config]) -> set[str]:
    """Every value that a `kind` may have below a config type, except those that are names of keys too."""
    groups = config_type.model_json_schema().get("$defs", {}).values()
    kinds = {
        group["properties"]["kind"]["const"]
        for group in groups
        if "const" in group.get("properties", {}).get("kind", {})
    }
    return kinds - set(_all_keys(config_type))


def _all_keys(config_type: type[Config]) -> list[str]:
    """Every key name below a config type, for spelling hints only."""
    schema = config_type.model_json_schema()
    groups = [schema, *schema.get("$defs", {}).values()]
    return sorted({key for group in groups for key in group.get("properties", {})})


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that raises for a key written twice; plain PyYAML silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
