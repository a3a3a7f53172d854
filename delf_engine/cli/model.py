"""The commands on checkpoints: which there are, what they say of themselves, copies, checks, published models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from delf_engine.cli.console import console, harmless, print_json, progress_bar, say, staged_progress, unreadable
from delf_engine.cli.options import JsonOption, ProfileOption, check_outputs
from delf_engine.cli.training import print_figures
from delf_engine.errors import CheckpointError, ConfigError

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name (`model list`) or a path.")]
PhotosArgument = Annotated[
    list[str], typer.Argument(metavar="PHOTOS...", help="Image files and folders; others than those you search.")
]
HeadOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Default: beside the checkpoint, where it is found.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Replace the file.")]

commands = typer.Typer(
    name="model",
    help="List, describe, copy and check the checkpoints that features are made with: files, or names "
    "of those that come with the package.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@commands.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the checkpoints of the package."""
    from rich.filesize import decimal

    from delf_engine.model import checkpoint_names

    rows = [_summary(name) for name in checkpoint_names()]
    if as_json:
        return print_json({"models": rows})
    table = [("model", "trunk", "dim", "size", "codebook", "hash")]
    for row in rows:
        kind = ("unreadable", "") if row["error"] else (row["architecture"], str(row["dim"]))
        book = "" if row["codebook_size"] is None else decimal(row["codebook_size"])
        name = f"{row['name']}{' *' if row['default'] else ''}"
        table.append((name, *kind, decimal(row["size"]), book, (row["sha256"] or "")[:8]))
    _print_table(table)
    say("* the default. Hash: of the weights, as engines keep it.")
    return None


@commands.command()
def info(name: NameArgument, as_json: JsonOption = False) -> None:
    """Say everything that a checkpoint says of itself: preprocessing, data, recipe, figures."""
    described = _described(name)
    if as_json:
        return print_json(described)
    told = described | described.pop("metadata")
    for key in ("recipe", "figures"):
        if isinstance(told[key], dict):
            parts = {f"{key}: {part}": value for part, value in told.pop(key).items()}
            told |= {part: f"{value:.6g}" if isinstance(value, float) else value for part, value in parts.items()}
    _print_table(
        (key.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in told.items()
        if value not in (None, "")
    )
    return None


@commands.command()
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to: NAME.safetensors, NAME.onnx, or a folder.")],
    codebook: Annotated[bool, typer.Option(help="Copy its codebook beside it, too.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what is there.")] = False,
) -> None:
    """Copy a checkpoint, its codebook, global head and card to a place of your own; a damaged one is refused.

    As .onnx the network runs in ONNX Runtime, without torch; this needs the optional extra "onnx".
    """
    from delf_engine.index import Codebook
    from delf_engine.model.check import copy_checkpoint

    written = copy_checkpoint(name, out, Codebook.load, codebook=codebook, replace=replace)
    for path in written:
        say(f"wrote {path}")


@commands.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names or paths.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the package.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check checkpoints, their codebooks and global heads: hashes, values, shapes. Exit code 1: one is damaged."""
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
        _print_table(
            ("" if i else name, check.what, "ok" if check.ok else "FAILED", check.found)
            for name, checks in results.items()
            for i, check in enumerate(checks)
        )
    if not sound:
        raise typer.Exit(1)


@commands.command("import")
def import_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="delf, delg, how, torchvision or vit.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="delf, delg: folder of a TensorFlow SavedModel, or prefix of a checkpoint. how: .pth. "
            "torchvision (ResNets), vit (torchvision's, DINOv2): .pth or .safetensors, or URL#sha256=HEX.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Checkpoint to write, .safetensors.")],
    pca: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="PCA of the descriptors: folder with mean.datum and pca_proj_mat.datum, or .npz with mean and "
            "components. Without one, a model that has no reduction of its own keeps all channels.",
        ),
    ] = None,
    dim: Annotated[int | None, typer.Option(min=1, help="Components of the PCA to keep (DELF: 40).")] = None,
    whiten: Annotated[
        bool, typer.Option("--whiten", help="Whiten by pca_vars.datum or the .npz's variances.")
    ] = False,
    stride: Annotated[
        int | None, typer.Option(help="Stride of DELF's feature map, 16 or 32. Default: as saved, else 32.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Profile it is meant for. Default: delf, delg, how or default, as the model is."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Published attention threshold, for the metadata (DELF: 100).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: that of FILE.")] = None,
    data: Annotated[str, typer.Option(help="What it was trained on, for the metadata.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the metadata.")] = "",
    half: Annotated[
        bool, typer.Option("--half", help="Half precision: half the size, not the same bits.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace FILE.")] = False,
) -> None:
    """Make a checkpoint from a published model: DELF and DELG (without TensorFlow), HOW, torchvision, DINOv2."""
    from delf_engine.interchange.published.convert import import_model
    from delf_engine.model import save_checkpoint

    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: a checkpoint's name ends in .safetensors")
    if out.exists() and not replace:
        raise ConfigError(f"{out}: is there already; --replace replaces it")
    check_outputs(out)
    state, told = import_model(
        kind,
        source,
        name=name or out.stem,
        pca=pca,
        dim=dim,
        whiten=whiten,
        stride=stride,
        profile=profile,
        threshold=threshold,
        data=data,
        licence=licence,
    )
    written = save_checkpoint(out, state, told, half=half)
    score = "attention head" if written.attention == "head" else "L2 norm of the feature"
    say(f"wrote {out}: {written.architecture}, score by {score}, {written.dim}-D, profile {written.profile}")
    say(f"SHA-256 of its weights {written.sha256}; all that it says: delf-engine model info {out}")


@commands.command("fit-global")
def fit_global(
    checkpoint: NameArgument,
    photos: PhotosArgument,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Mined pairs of these photographs (`mine`): whitening is learned. Default: PCA."),
    ] = None,
    pooling: Annotated[
        str,
        typer.Option(help="attention, attention_rmac, crow, gap, gem, mac, rmac, scda or spoc."),
    ] = "rmac",
    dim: Annotated[int, typer.Option(min=1, help="Components of a vector.")] = 256,
    levels: Annotated[
        int | None, typer.Option(min=1, help="Levels of the pyramid that are pooled, largest first. Default: all.")
    ] = None,
    profile: ProfileOption = None,
    out: HeadOption = None,
    device: DeviceOption = "auto",
    replace: ReplaceOption = False,
) -> None:
    """Fit the global vector of a checkpoint: pooled from its maps, whitened by what your photographs show."""
    from delf_engine.training.global_head import fit_global_head

    target = _head_to_write(checkpoint, out, replace)
    with unreadable() as failed, progress_bar("global vectors") as progress:
        head = fit_global_head(
            checkpoint,
            photos,
            dim=dim,
            pooling=pooling,
            levels=levels,
            pairs=pairs,
            profile=profile,
            out=target,
            device=device,
            progress=progress,
            on_error=lambda path, error: failed.update({path: error.reason}),
        )
    say(f"wrote {target}: {head.identity}, for {head.model}")
    if failed:
        raise typer.Exit(1)


@commands.command("train-global")
def train_global(
    checkpoint: NameArgument,
    photos: PhotosArgument,
    recipe: Annotated[
        str, typer.Option(help="Recipe that trains the global head alone, by name or path.")
    ] = "global",
    pairs: Annotated[Path | None, typer.Option(help="Mined pairs of these photographs (`mine`).")] = None,
    seed: Annotated[int, typer.Option(help="Same photographs, recipe and seed: same head.")] = 0,
    out: HeadOption = None,
    device: DeviceOption = "auto",
    replace: ReplaceOption = False,
) -> None:
    """Train the global vector of a checkpoint, from where it is fitted; the checkpoint stays as it is."""
    from delf_engine.training import Reports, RunOptions
    from delf_engine.training.finish import train_global_head

    target = _head_to_write(checkpoint, out, replace)
    with unreadable() as failed, staged_progress() as progress:
        reports = Reports(lambda path, error: failed.update({path: error.reason}), progress, print_figures)
        options = RunOptions(seed, device, pairs=pairs)
        head = train_global_head(checkpoint, photos, recipe, out=target, options=options, reports=reports)
    say(f"wrote {target}: {head.identity}, for {head.model}")
    if failed:
        raise typer.Exit(1)


def _head_to_write(checkpoint: str, out: Path | None, replace: bool) -> Path:
    from delf_engine.model.checkpoint import checkpoint_path, global_head_beside

    target = out or global_head_beside(checkpoint_path(checkpoint))
    if target.exists() and not replace:
        raise ConfigError(f"{target}: exists; write another file (--out), or say --replace to replace it")
    return target


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


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print lines of cells, below each other; long ones are folded to the width of the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(max_width=32)
    for row in rows:
        table.add_row(*(Text(harmless(cell), overflow="fold") for cell in row))
    console().print(table)
