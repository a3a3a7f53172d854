"""What all configuration objects have in common, and how they are read."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from delf_engine.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """Base of all configuration objects: immutable, no unknown keys, no silent conversions, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def parse_config(kind: type[ConfigT], values: Mapping[str, Any], *, where: str) -> ConfigT:
    """Validate `values` as a `kind`; errors name `where`, the key, and the nearest known key.

    Raises
    ------
    ConfigError
        With one line for each problem.
    """
    try:
        return kind.model_validate(_tuples(values))
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; the value ``"none"`` is None.

    Raises
    ------
    ConfigError
        If it cannot be read or is not valid TOML.
    """
    try:
        return dict(_nulls(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def _tuples(value: Any) -> Any:
    """Turn lists into tuples, which TOML and JSON do not know; what is validated already stays as it is."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _nulls(value: Any) -> Any:
    """Turn the word "none" into None, for which TOML has no value."""
    if isinstance(value, Mapping):
        return {key: _nulls(item) for key, item in value.items()}
    return None if value == "none" else value


def _explain(kind: type[Config], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] != "extra_forbidden":
        said = str(problem["msg"]).removeprefix("Value error, ")
        return f"{key}: {said}" if key else said
    model: Any = kind
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    hint = difflib.get_close_matches(location[-1], model.model_fields, n=1, cutoff=0)
    return f"unknown key {key!r}; the nearest known one is {hint[0]!r}"
