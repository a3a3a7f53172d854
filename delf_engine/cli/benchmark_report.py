"""The command that makes a page of a benchmark run's JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from delf_engine.cli.console import print_json, say
from delf_engine.cli.options import JsonOption

__all__ = ["photographs_below", "register"]


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(benchmark_report)


def benchmark_report(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="What a benchmark run has written.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page to write.")],
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Photographs of queries and gallery, named after their ids."),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="MD", help="Write the tables here as Markdown.")] = None,
    queries: Annotated[int, typer.Option(min=0, help="Queries to show with their rankings: the lowest.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Write a page about a benchmark run: figures, every query, the lowest ones with pictures, inliers, time.

    The page is one HTML file that needs nothing else.
    """
    from delf_engine.errors import ConfigError
    from delf_engine.plotting.report import benchmark_markdown, read_benchmark_result, write_benchmark_report
    from delf_engine.support.files import replacing

    if markdown is not None and not markdown.parent.is_dir():
        raise ConfigError(f"{markdown}: cannot be written: there is no folder {markdown.parent}")
    values = read_benchmark_result(result)
    photographs = None if images is None else photographs_below(images)
    written = write_benchmark_report(out, values, images=photographs, max_queries=queries)
    if markdown is not None:
        try:
            with replacing(markdown) as partial:
                partial.write_text(benchmark_markdown(values), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{markdown}: cannot be written: {error.strerror or error}") from error
    if as_json:
        print_json({"out": str(out), "markdown": None if markdown is None else str(markdown), **vars(written)})
        return
    text = f"{written.queries} of {written.of} queries shown; wrote {out}, {written.bytes:,} bytes"
    say(text)


def photographs_below(folder: Path) -> Callable[[str], str]:
    """Return what finds the photograph of an id in a folder and those below it.

    An id is the path of a file inside the folder, or its name alone, with its ending or without. Nothing outside
    the folder is ever read.

    Raises
    ------
    DataError
        If there is no such folder, or no image in it.
    """
    from delf_engine.errors import ImageError
    from delf_engine.images import find_images

    exact: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for path in find_images([folder]):
        inside = Path(os.path.relpath(path, folder))
        for whole in (inside.as_posix(), inside.with_suffix("").as_posix()):
            exact.setdefault(whole, path)
        for name in {inside.name, inside.stem}:
            by_name.setdefault(name, []).append(path)

    def find(image_id: str) -> str:
        if image_id in exact:
            return exact[image_id]
        found = by_name.get(image_id, [])
        if not found:
            raise ImageError(image_id, f"not found in {folder}")
        if len(found) > 1:
            raise ImageError(image_id, f"stands {len(found)} times in {folder}")
        return found[0]

    return find
