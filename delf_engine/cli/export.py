"""Command export: the features of an engine in the files of other software."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.console import print_json, progress_bar, say
from delf_engine.cli.options import Directory, JsonOption

if TYPE_CHECKING:
    from delf_engine.features import LocalFeatures

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(export)


def export(
    directory: Directory,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The .h5 file (hloc) or the folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--format",
            help="delf: a folder of .delf files. hloc: one HDF5 file. colmap: a folder for its feature_importer.",
        ),
    ],
    ids: Annotated[
        list[str] | None, typer.Option(help="Export this image only; repeat it for more. Default: all.")
    ] = None,
    relative_to: Annotated[
        Path | None, typer.Option(help="Name images by their path from this folder instead of by their id.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Half precision, for hloc.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the file, or files of the same name in the folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the features of an engine for other software: DELF's own code, hloc, COLMAP."""
    from delf_engine.engine import Engine
    from delf_engine.errors import UnknownIdError
    from delf_engine.interchange import export_features

    with Engine.open(directory, readonly=True) as engine, progress_bar("exporting", quiet=as_json) as progress:
        store = engine.store
        wanted = list(dict.fromkeys(ids)) if ids else None
        missing = [image_id for image_id in wanted or () if image_id not in store]
        if missing:
            raise UnknownIdError(f"{directory} holds no image {missing[0]!r}")
        items = store.items() if wanted is None else ((image_id, store.get(image_id)) for image_id in wanted)
        named = ((name_of(image_id, relative_to), features) for image_id, features in items)
        tally = Tally(named, len(store) if wanted is None else len(wanted), progress)
        images = export_features(to, target, tally, replace=replace, half=half)
    if as_json:
        print_json({"format": to, "target": str(target), "images": images, "features": tally.features})
    else:
        say(f"{images} images with {tally.features} features written to {target} ({to})")


class Tally:
    """Passes items on, counts their features and reports progress."""

    def __init__(
        self, items: Iterable[tuple[str, LocalFeatures]], total: int, progress: Callable[[int, int], None]
    ) -> None:
        self._items, self._total, self._progress = items, total, progress
        self.features = 0

    def __iter__(self) -> Iterator[tuple[str, LocalFeatures]]:
        for done, (name, features) in enumerate(self._items, 1):
            yield name, features
            self.features += len(features)
            self._progress(done, self._total)


def name_of(image_id: str, folder: Path | None) -> str:
    """Return the name that an image gets: its id, or its path from `folder`.

    Raises
    ------
    ConfigError
        If it does not lie in `folder`.
    """
    from delf_engine.errors import ConfigError

    if folder is None:
        return image_id
    path = os.path.relpath(os.path.abspath(image_id), os.path.abspath(folder))
    if path == os.pardir or path.startswith(os.pardir + os.sep):
        raise ConfigError(f"{image_id}: does not lie in {folder}; choose another folder for --relative-to")
    return path
