"""What the reference takes from the package itself while the site is built: commands, constants, errors.

A page has a line ``<!-- generated: NAME -->``, which is replaced by Markdown when Sphinx reads it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from numpydoc.docscrape import NumpyDocString

from delf_engine import errors
from delf_engine.cli import app
from delf_engine.config import Config, Profile, config_directory, load_profile, profile_names

_LINE = re.compile(r"<!-- generated: (\w+) -->")


def setup(sphinx: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    sphinx.connect("source-read", _fill)
    sphinx.connect("autodoc-process-signature", _readable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(sphinx: Any, docname: str, source: list[str]) -> None:
    source[0] = _LINE.sub(lambda line: CONTENTS[line[1]](), source[0])


def _readable(
    sphinx: Any, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Return a signature without what pydantic and NumPy put into their types; options have attributes instead."""
    if inspect.isclass(value) and issubclass(value, Config):
        return "", None
    if signature is None:
        return None
    return _short(signature), None if returns is None else _short(returns)


_ARRAY = re.compile(
    r"~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[~?[\w.]*?(\w+)(?:\[[^\]]*\])?\]\]"
)
_ARRAY_LIKE = re.compile(
    r"~?numpy\._typing\._array_like\._Buffer \|.*?\| complex \| bytes \| str \| [\w.~]*\[complex \| bytes \| str\]"
)


def _short(text: str) -> str:
    return _ARRAY_LIKE.sub("ArrayLike", _ARRAY.sub(r"NDArray[\1]", text))


def table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table in Markdown; cells are Markdown already."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def plain(text: str) -> str:
    """Return text as Markdown that shows it: what looks like HTML stays text."""
    return " ".join(text.replace("<", "&lt;").replace("``", "`").replace("*", "\\*").split())


# ---------------------------------------------------------------------------------------------------- commands


def commands() -> str:
    """Return a section for each command, in the order and the groups of ``--help``."""
    root = typer.main.get_command(app)
    groups: dict[str, list[str]] = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        groups.setdefault(command.rich_help_panel, []).append(_command(f"delf-engine {name}", command))
    return "\n".join(f"## {group}\n\n" + "\n".join(sections) for group, sections in groups.items())


def _command(name: str, command: Any, level: int = 3) -> str:
    text = f"{'#' * level} {name}\n\n"
    described = "\n\n".join(map(plain, inspect.cleandoc(command.help or "").split("\n\n")))
    if hasattr(command, "commands"):
        inner = "\n".join(_command(f"{name} {sub}", one, level + 1) for sub, one in command.commands.items())
        return f"{text}{described}\n\n{inner}"
    parameters = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    usage = " ".join([name, *map(_metavar, arguments), "[OPTIONS]" if len(parameters) > len(arguments) else ""])
    text += f"```text\n{usage.strip()}\n```\n\n{described}\n\n"
    return text + (table(("", "meaning"), map(_parameter, parameters)) if parameters else "")


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    several = "..." if parameter.nargs == -1 and not name.endswith("...") else ""
    return f"{name}{several}" if parameter.required else f"[{name}{several}]"


def _parameter(parameter: Any) -> tuple[str, str]:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`", plain(parameter.help or "")
    names = " / ".join([*parameter.opts, *parameter.secondary_opts])
    takes = "" if parameter.is_flag else f" {parameter.metavar or _KINDS.get(_annotation(parameter), 'VALUE')}"
    said = plain(parameter.help or "")
    default = parameter.default() if callable(parameter.default) else parameter.default
    if parameter.required:
        said += " **Required.**"
    elif default not in (None, False, (), [], "") and not parameter.is_flag:
        said += f" Default: `{default}`."
    elif parameter.is_flag and parameter.secondary_opts:
        said += f" Default: `{(parameter.opts if default else parameter.secondary_opts)[0]}`."
    return f"`{names}{takes}`", said


_KINDS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def _annotation(parameter: Any) -> Any:
    """Return the Python type of an option, of which there may be several."""
    annotation = parameter.type_descriptor.annotation
    return (get_args(annotation) or (annotation,))[0]


# --------------------------------------------------------------------------------------------------- constants


def constants() -> str:
    """Return a table for each section of a profile: the default's value, those of other profiles, the meaning."""
    profiles = {name: load_profile(name) for name in profile_names()}
    default = profiles.pop("default")
    parts = []
    for section, value in default:
        if not isinstance(value, Config):
            continue
        said = meanings(type(value))
        rows = (_constant(section, key, value, profiles, said.get(key, "")) for key in type(value).model_fields)
        summary = inspect.cleandoc(type(value).__doc__ or "").split("\n\n")[0]
        head = ("constant", "default", "meaning", "in other profiles")
        parts.append(f"## `[{section}]`\n\n{plain(summary)}\n\n{table(head, rows)}")
    return "\n".join(parts)


def meanings(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says of its attributes, by their names."""
    found = {}
    for attribute in NumpyDocString(inspect.cleandoc(kind.__doc__ or ""))["Attributes"]:
        said = re.sub(r"^(.*?)(: )", r"\1: ", " ".join(attribute.desc))
        for name in attribute.name.split(", "):
            found[name] = plain(said)
    if not found:  # one constant, which the summary is about
        found = dict.fromkeys(kind.model_fields, plain((kind.__doc__ or "").split("\n\n")[0]))  # type: ignore[attr-defined]
    return found


def _constant(
    section: str, key: str, default: Config, profiles: dict[str, Profile], said: str
) -> tuple[str, str, str, str]:
    own = getattr(default, key)
    others: dict[str, list[str]] = {}
    for name, profile in profiles.items():
        value = getattr(getattr(profile, section), key)
        if value != own:
            others.setdefault(_value(value), []).append(f"`{name}`")
    differing = "; ".join(f"{', '.join(names)}: {value}" for value, names in others.items())
    return f"`{key}`", _value(own), said, differing


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def profiles() -> str:
    """Return the files of all profiles and recipes, as they are."""
    parts = []
    for path in sorted(config_directory().glob("*.toml")):
        parts.append(f"### `{path.name}`\n\n```toml\n{path.read_text(encoding='utf-8').strip()}\n```\n")
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------------ errors


def error_table() -> str:
    """Return a table of the error types and what each means."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    rows = (
        (f"{{py:obj}}`~delf_engine.errors.{k.__name__}`", plain(inspect.getdoc(k).split("\n\n")[0])) for k in kinds
    )  # type: ignore[union-attr]
    return table(("type", "meaning"), rows)


CONTENTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "constants": constants,
    "errors": error_table,
    "profiles": profiles,
}
