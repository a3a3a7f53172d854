"""The commands on checkpoints: which there are, what they say of themselves, copies, checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli import importing
from delf_engine.cli.console import console, print_json, say
from delf_engine.cli.options import JsonOption
from delf_engine.errors import CheckpointError

if TYPE_CHECKING:
    from rich.table import Table


__all__ = ["register"]

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name (`model list`) or a path.")]

commands = typer.Typer(
    name="model",
    help="List, describe, copy and check the checkpoints that features are made with: files, or names "
    "of those that come with the package.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add this group of commands to the application."""
    importing.register(commands)
    app.add_typer(commands, rich_help_panel=None)


@commands.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the checkpoints of the package."""
    from rich.filesize import decimal
    from rich.markup import escape

    from delf_engine.model import checkpoint_names

    rows = [_summary(name) for name in checkpoint_names()]
    if as_json:
        return print_json({"models": rows})
    table = _table("model", "trunk", "dim", "size", "codebook", "hash")
    for row in rows:
        table.add_row(
            f"{escape(row['name'])}{' *' if row['default'] else ''}",
            "[red]unreadable[/]" if row["error"] else row["architecture"],
            "" if row["dim"] is None else str(row["dim"]),
            decimal(row["size"]),
            "" if row["codebook_size"] is None else decimal(row["codebook_size"]),
            (row["sha256"] or "")[:8],
        )
    console().print(table)
    say("* the default. Hash: of the weights, as engines keep it.")
    return None


@commands.command()
def info(name: NameArgument, as_json: JsonOption = False) -> None:
    """Say everything that a checkpoint says of itself: preprocessing, data, recipe, figures."""
    described = _described(name)
    if as_json:
        print_json(described)
    else:
        _print_info(described)


@commands.command()
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to: NAME.safetensors, NAME.onnx, or a folder.")],
    codebook: Annotated[bool, typer.Option(help="Copy its codebook beside it, too.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what is there.")] = False,
) -> None:
    """Copy a checkpoint, its codebook and its card to a place of your own; a damaged one is refused.

    As .onnx the network runs in ONNX Runtime, without torch; this needs the optional extra "onnx".
    """
    from delf_engine.index import Codebook
    from delf_engine.model.check import copy_checkpoint

    written = copy_checkpoint(name, out, codebook=codebook, replace=replace, read_codebook=Codebook.load)
    for path in written:
        say(f"wrote {path}")


@commands.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names or paths.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the package.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check hashes, values and shapes of checkpoints and their codebooks. Exit code 1 if one is damaged."""
    from rich.markup import escape

    from delf_engine.index import Codebook
    from delf_engine.model import checkpoint_names
    from delf_engine.model.check import check_checkpoint

    if bool(names) == everything:
        raise typer.BadParameter("give names of checkpoints, or --all")
    results = {name: check_checkpoint(name, Codebook.load) for name in names or checkpoint_names()}
    sound = all(check.ok for checks in results.values() for check in checks)
    if as_json:
        print_json({"ok": sound, "models": {name: [asdict(check) for check in c] for name, c in results.items()}})
    else:
        table = _table("model", "check", "", "found")
        for name, checks in results.items():
            for i, check in enumerate(checks):
                mark = "[green]ok[/]" if check.ok else "[bold red]FAILED[/]"
                table.add_row("" if i else escape(name), escape(check.what), mark, escape(check.found))
        console().print(table)
    if not sound:
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------------------ what there is


def _summary(name: str) -> dict[str, Any]:
    """Return one row of the list, as JSON has it; what is unknown is None."""
    from delf_engine.model import DEFAULT_MODEL, checkpoint_path, codebook_path, read_checkpoint_info

    path, beside = checkpoint_path(name), codebook_path(name)
    row: dict[str, Any] = {
        "name": name,
        "default": name == DEFAULT_MODEL,
        "path": str(path),
        "size": path.stat().st_size,
        "codebook_size": None if beside is None else beside.stat().st_size,
        **dict.fromkeys(("architecture", "dim", "sha256", "error")),
    }
    try:
        told = read_checkpoint_info(path)
    except CheckpointError as error:
        return row | {"error": str(error)}
    return row | {"architecture": told.architecture, "dim": told.dim, "sha256": told.sha256}


def _described(name: str) -> dict[str, Any]:
    from delf_engine.index import Codebook
    from delf_engine.model import checkpoint_path, codebook_path, read_checkpoint_info
    from delf_engine.support.files import file_sha256

    path, beside = checkpoint_path(name), codebook_path(name)
    told, card, book = read_checkpoint_info(path), path.with_suffix(".md"), None
    if beside is not None:
        words = Codebook.load(beside)
        book = {"path": str(beside), "words": words.words, "dim": words.dim, "hash": words.hash}
        book["file_sha256"] = file_sha256(beside)
    try:
        recipe = json.loads(told.recipe)
    except json.JSONDecodeError:  # it may also be words
        recipe = told.recipe
    return {
        **_summary(name),
        "file_sha256": file_sha256(path),
        "identity": told.identity,
        "codebook": book,
        "card": str(card) if card.is_file() else None,
        "metadata": {**told.model_dump(mode="json"), "recipe": recipe},
    }


# --------------------------------------------------------------------------- tables, readable at 80 columns


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in ("dim", "size")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _print_info(described: Mapping[str, Any]) -> None:
    """Print everything that is known of a checkpoint."""
    from rich.filesize import decimal
    from rich.markup import escape

    metadata = dict(described["metadata"])
    recipe, figures = metadata.pop("recipe"), metadata.pop("figures")
    values = {
        "file": described["path"],
        "size": decimal(described["size"]),
        "SHA-256 of the file": described["file_sha256"],
        **{key.replace("_", " "): value for key, value in metadata.items() if key != "sha256"},
        "SHA-256 of the weights": metadata["sha256"],
    }
    if isinstance(recipe, dict):
        values |= {f"recipe: {key.replace('_', ' ')}": value for key, value in recipe.items()}
    else:
        values["recipe"] = recipe
    book = described["codebook"]
    values["codebook"] = (
        "none" if book is None else f"{book['words']:,} words, {book['dim']}-D, hash {book['hash']}"
    )
    table = _table("", "")
    table.show_header = False
    table.columns[0].no_wrap = True
    for key, value in values.items():
        if value is not None and value != "":
            table.add_row(key, escape(_text(value)))
    console().print(table, highlight=False)
    if figures:
        table = _table("measured", "value")
        for name, value in figures.items():
            table.add_row(escape(name), f"{value:.4f}")
        console().print(table)


def _text(value: Any) -> str:
    """Return a value in words: ``count 4, crop (0.4, 1.0)``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_nested(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(item, dict) for item in value):
            return "\n".join(_text(item) for item in value)
        return ", ".join(_nested(item) for item in value)
    return str(value)


def _nested(value: Any) -> str:
    return f"({' | '.join(_text(value).splitlines())})" if isinstance(value, (dict, list, tuple)) else _text(value)
