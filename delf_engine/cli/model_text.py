"""What the commands on checkpoints print: tables that stay readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from delf_engine.cli.console import console

if TYPE_CHECKING:
    from rich.table import Table

    from delf_engine.model.check import Check

__all__ = ["print_checks", "print_info", "print_models"]


def print_models(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line a checkpoint."""
    table = _table("model", "where", "trunk", "dim", "size", "codebook", "hash")
    for column in (3, 4, 5):
        table.columns[column].justify = "right"
    table.columns[0].overflow = "fold"
    for row in rows:
        table.add_row(*_cells(row))
    console().print(table)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    from rich.filesize import decimal
    from rich.markup import escape

    def size(value: int | None) -> str:
        return "" if value is None else decimal(value)

    where = "cache" if row["origin"] == "url" and row["ready"] else row["origin"]
    return [
        f"{escape(row['name'])}{' *' if row['default'] else ''}",
        where,
        "[red]unreadable[/]" if row["error"] else row["architecture"] or "",
        "" if row["dim"] is None else str(row["dim"]),
        size(row["size"]),
        size(row["codebook_size"]),
        (row["sha256"] or "")[:8],
    ]


def print_info(described: Mapping[str, Any]) -> None:
    """Print everything that is known of a checkpoint."""
    from rich.filesize import decimal
    from rich.markup import escape

    metadata = dict(described["metadata"])
    recipe, figures = metadata.pop("recipe"), metadata.pop("figures")
    values = {
        "file": described["path"],
        "size": decimal(described["size"]),
        "SHA-256 of the file": described["file_sha256"],
        "url": described["url"],
        "note": described["note"],
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
    table.columns[1].overflow = "fold"
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
    if isinstance(value, (list, tuple)):
        separator = "\n" if value and all(isinstance(item, dict) for item in value) else ", "
        return separator.join(_text(item) if separator == "\n" else _nested(item) for item in value)
    return str(value)


def _nested(value: Any) -> str:
    return f"({' | '.join(_text(value).splitlines())})" if isinstance(value, (dict, list, tuple)) else _text(value)


def print_checks(results: Mapping[str, Sequence[Check]]) -> None:
    """Print one line a check, checkpoint by checkpoint."""
    from rich.markup import escape

    table = _table("model", "check", "", "found")
    table.columns[0].overflow = table.columns[3].overflow = "fold"
    for name, checks in results.items():
        for i, check in enumerate(checks):
            mark = "[green]ok[/]" if check.ok else "[bold red]FAILED[/]"
            table.add_row("" if i else escape(name), escape(check.what), mark, escape(check.found))
    console().print(table)
