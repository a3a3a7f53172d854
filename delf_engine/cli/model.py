"""The commands on checkpoints: which there are, what they say of themselves, copies, checks."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli import importing
from delf_engine.cli.console import console, print_json, say
from delf_engine.cli.download import fetch_located
from delf_engine.cli.model_text import print_checks, print_info, print_models
from delf_engine.cli.options import JsonOption
from delf_engine.errors import CheckpointError, FormatError
from delf_engine.support.files import replacing

if TYPE_CHECKING:
    from delf_engine.model import CheckpointInfo
    from delf_engine.model.check import Check
    from delf_engine.model.hub import Located

__all__ = ["register"]

_HELP = """List, describe, copy and check the checkpoints that features are made with.

A checkpoint is named by, in this order: a URL with the SHA-256 of the file (https://.../NAME.safetensors#sha256=HEX);
a file; a name that comes with the package; a name in the cache; a name in a registry, which is downloaded into the
cache when it is needed.

The cache is ~/.cache/delf-engine/checkpoints (under $XDG_CACHE_HOME if that is set; on macOS
~/Library/Caches/delf-engine/checkpoints), or $DELF_ENGINE_HOME/checkpoints. Files put there by hand are found by
their names.

$DELF_ENGINE_MODELS may name a registry of your own: a TOML file with one table a model, and in it url, sha256 and,
if it has a codebook, codebook_sha256.
"""
_REFLOWED = "\n\n".join(" ".join(paragraph.split()) for paragraph in _HELP.split("\n\n"))

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name, path, or URL with #sha256=HEX.")]

commands = typer.Typer(name="model", help=_REFLOWED, no_args_is_help=True, rich_markup_mode="rich")


def register(app: typer.Typer) -> None:
    """Add this group of commands to the application."""
    importing.register(commands)
    app.add_typer(commands, rich_help_panel=None)


@commands.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the checkpoints of the package, of the cache, and those known by URL."""
    from delf_engine.model.hub import cache_folder

    rows = [_summary(name, found) for name, found in _known()]
    if as_json:
        return print_json({"models": rows, "cache": str(cache_folder())})
    print_models(rows)
    console().print("* the default. Hash: of the weights, as engines keep it.", highlight=False)
    say(f"Cache: {cache_folder()}")
    return None


@commands.command()
def info(name: NameArgument, as_json: JsonOption = False) -> None:
    """Say everything that a checkpoint says of itself: preprocessing, data, recipe, figures."""
    from delf_engine.model.hub import locate

    found = locate(name)
    if not found.ready:
        raise CheckpointError(_not_there(name, found))
    described = _described(name, found)
    if as_json:
        print_json(described)
    else:
        print_info(described)


@commands.command()
def fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names or URLs.")]) -> None:
    """Download checkpoints into the cache, with their codebooks; an interrupted download goes on."""
    from delf_engine.model.hub import locate

    for name in names:
        found = locate(name)
        fetch_located(found)
        say(str(found.path))


@commands.command()
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to: NAME.safetensors, NAME.onnx, or a folder.")],
    kind: Annotated[
        str | None,
        typer.Option("--format", help="safetensors or onnx. Default: as FILE ends; in a folder, safetensors."),
    ] = None,
    codebook: Annotated[bool, typer.Option(help="Copy its codebook beside it, too.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Copy a checkpoint, its codebook and its card to a place of your own; a damaged one is refused.

    As .onnx the network runs in ONNX Runtime, without torch; this needs the optional extra "onnx".
    """
    from delf_engine.model.hub import codebook_beside, locate
    from delf_engine.model.onnx_export import require_onnx

    ending = _ending(kind, out)
    if ending == ".onnx":
        require_onnx()
    found = locate(name)
    fetch_located(found)
    bad = [check for check in _checks(found) if not check.ok]
    if bad:
        raise CheckpointError(f"{found.path}: not copied: {bad[0].what}: {bad[0].found}")
    target = out / f"{_plain_name(found)}{ending}" if out.is_dir() else out
    if target.suffix != ending:
        endings = ending if kind else ".safetensors or .onnx"
        raise CheckpointError(f"{out}: neither a folder nor a name that ends in {endings}")
    copies = _copies(found.path, target, codebook)
    stale = codebook_beside(target)
    _refuse_overwriting(copies, stale, force)
    written = [(_to_onnx if goal.suffix == ".onnx" else _copy)(source, goal) for source, goal in copies]
    if stale not in written:
        stale.unlink(missing_ok=True)  # with --force only: it belonged to another checkpoint
    for path in reversed(written):
        say(f"wrote {path}")


@commands.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names or paths.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the package and of the cache.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check hashes, values and shapes of checkpoints and their codebooks. Exit code 1 if one is damaged."""
    from delf_engine.model.hub import locate

    if bool(names) == everything:
        raise typer.BadParameter("give names of checkpoints, or --all")
    models = [(name, locate(name)) for name in names or []] or [m for m in _known() if m[1].ready]
    for name, found in models:
        if not found.ready:
            raise CheckpointError(_not_there(name, found))
    results = {name: _checks(found) for name, found in models}
    sound = all(check.ok for checks in results.values() for check in checks)
    if as_json:
        print_json({"ok": sound, "models": {name: [asdict(check) for check in c] for name, c in results.items()}})
    else:
        print_checks(results)
    if not sound:
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------------------ what there is


def _known() -> list[tuple[str, Located]]:
    """Return names and places: the package's, those of registries, and what else lies in the cache."""
    from delf_engine.model.hub import (
        Located,
        cache_folder,
        cached_names,
        packaged_folder,
        packaged_names,
        registry,
    )

    models = [(n, Located("packaged", packaged_folder() / f"{n}.safetensors")) for n in packaged_names()]
    remote = [(n, Located("url", model.path, model)) for n, model in sorted(registry().items())]
    seen = {found.path for _, found in remote}
    cached = [(n, Located("cache", cache_folder() / f"{n}.safetensors")) for n in cached_names()]
    return models + remote + [(n, found) for n, found in cached if found.path not in seen]


def _summary(name: str, found: Located) -> dict[str, Any]:
    """Return one row of the list, as JSON has it; what is unknown is None."""
    from delf_engine.model import read_checkpoint_info
    from delf_engine.model.hub import DEFAULT_MODEL, codebook_beside

    row: dict[str, Any] = {
        "name": name,
        "default": name == DEFAULT_MODEL,
        "origin": found.origin,
        "ready": found.ready,
        "path": str(found.path),
        "url": found.remote.url if found.remote else None,
        "note": found.remote.note if found.remote else "",
        "size": _size(found.path) or (found.remote.size if found.remote else None),
        "codebook_size": _size(codebook_beside(found.path)),
        **dict.fromkeys(("architecture", "dim", "sha256", "error")),
    }
    if found.ready:
        try:
            told = read_checkpoint_info(found.path)
        except CheckpointError as error:
            row["error"] = str(error)
        else:
            row |= {"architecture": told.architecture, "dim": told.dim, "sha256": told.sha256}
    return row


def _described(name: str, found: Located) -> dict[str, Any]:
    from delf_engine.downloads import file_sha256
    from delf_engine.model import read_checkpoint_info
    from delf_engine.model.hub import codebook_beside

    told = read_checkpoint_info(found.path)
    beside, card = codebook_beside(found.path), found.path.with_suffix(".md")
    return {
        **_summary(name, found),
        "file_sha256": file_sha256(found.path),
        "identity": told.identity,
        "codebook": _codebook(beside) if beside.is_file() else None,
        "card": str(card) if card.is_file() else None,
        "metadata": {**told.model_dump(mode="json"), "recipe": _parsed(told.recipe)},
    }


def _codebook(path: Path) -> dict[str, Any]:
    from delf_engine.downloads import file_sha256
    from delf_engine.index import Codebook

    book = Codebook.load(path)
    return {
        "path": str(path),
        "words": book.words,
        "dim": book.dim,
        "hash": book.hash,
        "file_sha256": file_sha256(path),
    }


def _parsed(recipe: str) -> Any:
    """Return a recipe as an object where it is JSON; it may also be words."""
    try:
        return json.loads(recipe)
    except json.JSONDecodeError:
        return recipe


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _not_there(name: str, found: Located) -> str:
    url = found.remote.url if found.remote else ""
    return f"{name} is known by URL ({url}) and not downloaded yet; do so with: delf-engine model fetch {name}"


def _plain_name(found: Located) -> str:
    return found.remote.name if found.remote else found.path.stem


# ------------------------------------------------------------------------------------------------------- copies


def _ending(kind: str | None, out: Path) -> str:
    """Return how the exported file's name ends."""
    if kind not in (None, "safetensors", "onnx"):
        raise typer.BadParameter(f"--format is safetensors or onnx, not {kind}")
    if kind is not None:
        return f".{kind}"
    return ".onnx" if out.suffix == ".onnx" and not out.is_dir() else ".safetensors"


def _copies(path: Path, target: Path, codebook: bool) -> list[tuple[Path, Path]]:
    """Return what is to be copied where; the checkpoint last, so that it is never there without the others."""
    from delf_engine.model.hub import codebook_beside

    pairs = [(path.with_suffix(".md"), target.with_suffix(".md"))]
    if codebook:
        pairs.append((codebook_beside(path), codebook_beside(target)))
    return [*(pair for pair in pairs if pair[0].is_file()), (path, target)]


def _refuse_overwriting(copies: list[tuple[Path, Path]], stale: Path, force: bool) -> None:
    """Raise if a file would be replaced without `force`, or a file by itself."""
    for source, goal in copies:
        if goal.exists() and goal.samefile(source):
            raise CheckpointError(f"{goal}: is the checkpoint itself; choose another place")
    there = [goal for goal in dict.fromkeys([*(goal for _, goal in copies), stale]) if goal.exists()]
    if there and not force:
        raise CheckpointError(f"{there[0]}: exists; choose another name, or replace it with --force")


def _to_onnx(source: Path, goal: Path) -> Path:
    from delf_engine.model import load_checkpoint
    from delf_engine.model.onnx_export import export_onnx

    export_onnx(goal, *load_checkpoint(source))
    return goal


def _copy(source: Path, goal: Path) -> Path:
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with replacing(goal) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise CheckpointError(f"{goal}: cannot be written: {error}") from error
    return goal


# ------------------------------------------------------------------------------------------------------- checks


def _checks(found: Located) -> list[Check]:
    """Return all checks of a checkpoint and of the codebook beside it."""
    from delf_engine.model.check import check_checkpoint, check_file
    from delf_engine.model.hub import codebook_beside

    told, checks = check_checkpoint(found.path)
    beside = codebook_beside(found.path)
    if found.remote is not None:
        checks.append(check_file("hash of the file", found.path, found.remote.sha256))
        if found.remote.codebook_sha256 is not None:
            checks.append(check_file("hash of the codebook", beside, found.remote.codebook_sha256))
    if told is not None:
        checks.append(_check_codebook(beside, told))
    return checks


def _check_codebook(path: Path, told: CheckpointInfo) -> Check:
    from delf_engine.index import Codebook
    from delf_engine.model.check import Check

    if not path.is_file():
        return Check("codebook", True, "none beside it")
    try:
        book = Codebook.load(path)
    except FormatError as error:
        return Check("codebook", False, str(error))
    if book.dim != told.dim:
        return Check("codebook", False, f"{book.dim}-D, the descriptors are {told.dim}-D")
    if told.codebook_sha256 not in (None, book.hash):
        return Check("codebook", False, f"hash {book.hash[:12]}..., made with {str(told.codebook_sha256)[:12]}...")
    return Check("codebook", True, f"{book.words:,} words, {book.dim}-D, hash as stated")
