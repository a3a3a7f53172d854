"""Command export: the features of an engine in the files of other software."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.console import print_json, progress_bar, say
from delf_engine.cli.options import Directory, JsonOption
from delf_engine.errors import ConfigError, UnknownIdError

if TYPE_CHECKING:
    from delf_engine.engine import Engine
    from delf_engine.features import LocalFeatures


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
    from delf_engine.interchange import export_features

    def name_of(engine: Engine, image_id: str) -> str:
        if relative_to is None:
            return image_id
        path = os.path.relpath(os.path.abspath(engine.path_of(image_id)), os.path.abspath(relative_to))
        if path.split(os.sep)[0] == os.pardir:
            raise ConfigError(
                f"{image_id}: does not lie in {relative_to}; choose another folder for --relative-to"
            )
        return path

    found = 0
    with Engine.open(directory, readonly=True) as engine, progress_bar("exporting", quiet=as_json) as progress:
        store = engine.store
        chosen_ids = [engine.state.id_of(one) for one in ids or ()]
        missing = [image_id for image_id in chosen_ids if image_id not in store]
        if missing:
            raise UnknownIdError(f"{directory} holds no image {missing[0]!r}")

        def items() -> Iterator[tuple[str, LocalFeatures]]:
            nonlocal found
            wanted = list(dict.fromkeys(chosen_ids)) or None
            chosen = store.items() if wanted is None else ((one, store.get(one)) for one in wanted)
            for done, (image_id, features) in enumerate(chosen, 1):
                yield name_of(engine, image_id), features
                found += len(features)
                progress(done, len(store) if wanted is None else len(wanted))

        images = export_features(to, target, items(), replace=replace, half=half)
    if as_json:
        print_json({"format": to, "target": str(target), "images": images, "features": found})
    else:
        say(f"{images} images with {found} features written to {target} ({to})")
