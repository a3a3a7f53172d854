"""The command that makes a checkpoint from a published model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.console import say

if TYPE_CHECKING:
    from delf_engine.model import CheckpointInfo

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this command to an application or a group of commands."""
    app.command("import")(import_command)


def import_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="delf, delg, how or torchvision.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="delf, delg: folder of a TensorFlow SavedModel, or prefix of a checkpoint. how: .pth. "
            "torchvision: .pth or .safetensors.",
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
        int | None, typer.Option(help="Of DELF's feature map, 16 or 32. Default: as saved, else 32.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Profile it is meant for. Default: delf, delg, how or default, as the model is."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Published attention threshold, for the metadata (DELF: 100).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model. Default: the name of FILE.")] = None,
    data: Annotated[str, typer.Option(help="What it was trained on, for the metadata.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights, for the metadata.")] = "",
    half: Annotated[
        bool, typer.Option("--half", help="Half precision: half the size, not the same bits.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace FILE.")] = False,
) -> None:
    """Make a checkpoint from a published model: DELF and DELG (without TensorFlow), HOW, torchvision's ResNets."""
    from delf_engine.errors import ConfigError
    from delf_engine.interchange.published import import_model

    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: a checkpoint's name ends in .safetensors")
    if out.exists() and not replace:
        raise ConfigError(f"{out}: is there already; --replace replaces it")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: no such folder to write the checkpoint into")
    model = import_model(
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
    _print(model.save(out, half=half), out)


def _print(info: CheckpointInfo, out: Path) -> None:
    score = "attention head" if info.attention == "head" else "L2 norm of the feature"
    if info.attention_bottleneck:
        score += f" on an autoencoder of {info.attention_bottleneck}"
    window = f"{info.smoothing} x {info.smoothing}"
    lines = {
        "trunk": info.architecture,
        "score": score,
        "descriptors": f"{info.dim}-D"
        + (f", features averaged over {window} cells" if info.smoothing > 1 else ""),
        "pixels": info.preprocessing,
        "profile": info.profile,
        "weights": f"SHA-256 {info.sha256}",
    }
    for key, value in lines.items():
        say(f"{key:<12}{value}")
    say(f"wrote {out}")
