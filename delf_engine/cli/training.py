"""The command that trains a checkpoint and its codebook from a folder of photographs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import print_failures, say, staged_progress, unreadable

if TYPE_CHECKING:
    from delf_engine.training import RunOptions, TrainingConfig
    from delf_engine.training.finish import CheckpointFiles


def train(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTOS...", help="Image files and folders.")],
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint to write, its codebook and card beside it. Default: its name.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe by name or path (configs/train_NAME.toml).")] = "delf_views",
    trunk: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: a file (safetensors, .pth), or one of our checkpoints by name or path. "
            "Default: the recipe's, else torchvision's, of ImageNet."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; write nothing, download nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same photographs, recipe and seed: same checkpoint.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, bf16 or fp16, for all stages. Default: the recipe's.")
    ] = None,
    cache_gb: Annotated[
        float, typer.Option(min=0, help="Maps kept at most, GB; others are computed again when drawn.")
    ] = 8.0,
    pairs: Annotated[
        Path | None, typer.Option(help="Mined pairs (JSON lines), for recipes that draw them.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Teacher of the distillation: checkpoint, trunk:ARCHITECTURE:FILE, aliked:FILE."),
    ] = None,
    log: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a log for TensorBoard there.")] = None,
    data: Annotated[str, typer.Option(help="What the photographs are, for the model card.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the checkpoint, for the model card.")] = "Apache-2.0",
    work: Annotated[
        Path | None, typer.Option(help="Folder to go on from when called again. Default: OUT with .work.")
    ] = None,
    max_photos: Annotated[int | None, typer.Option(min=1, help="Take this many photographs at most.")] = None,
) -> None:
    """Train a checkpoint from photographs, with labels or without, as a recipe says.

    An interrupted or killed run goes on where it was when the same command is called again.
    """
    from delf_engine import training
    from delf_engine.training.finish import CheckpointFiles
    from delf_engine.training.options import tensorboard_log

    config = training.load_training_config(recipe)
    given: Any = precision  # checked by the options
    options = training.RunOptions(seed, device, given, cache_gb, pairs=pairs, teacher=teacher)
    files = CheckpointFiles(out or Path(f"{config.name}.safetensors"), config.global_head is not None)
    if dry_run:
        _print_plan(photos, config, trunk, options, max_photos, files, work)
        return
    say(f"{config.name}, trunk {trunk or config.trunk or 'of torchvision'}, seed {seed}")
    with unreadable() as failed, staged_progress() as progress, tensorboard_log(log) as writer:
        reports = training.Reports(
            lambda path, error: failed.update({path: error.reason}), progress, print_figures, writer
        )
        done = training.train(
            photos,
            config,
            out=files.checkpoint,
            trunk=trunk,
            options=options,
            reports=reports,
            at_most=max_photos,
            work=work,
            data=data,
            licence=licence,
        )
    for name, value in done.info.figures.items():
        say(f"{name}: {value:.4f}")
    say(f"wrote {files.names}")
    if failed:
        raise typer.Exit(1)


def print_figures(stage: str, step: int, figures: Mapping[str, float]) -> None:
    """Print what was measured after a step."""
    text = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    say(f"{stage}, step {step}: {text}")


def _print_plan(
    photos: list[str],
    config: TrainingConfig,
    trunk: str | None,
    options: RunOptions,
    max_photos: int | None,
    files: CheckpointFiles,
    work: Path | None,
) -> None:
    """Print what a run would do."""
    from delf_engine.training.photographs import Photographs
    from delf_engine.training.plan import make_plan

    photographs = Photographs.find(photos, config, seed=options.seed, at_most=max_photos)
    plan = make_plan(photographs, config, trunk, options)
    held_in, held_out = len(photographs.held_in), len(photographs.held_out)
    say(f"recipe      {config.name} ({config.architecture}, {config.dim}-D), seed {options.seed}")
    say(f"photographs {len(photographs.files)}: {held_in} to train on, {held_out} to measure on")
    say(f"readable    {plan.read - len(plan.unreadable)} of {plan.read} tried")
    say(f"trunk       {trunk or config.trunk or 'torchvision, IMAGENET1K_V1 (not needed for a plan)'}")
    say(f"device      {plan.device}")
    say(f"writes      {files.names}; state in {work or files.work}")
    for number, stage in enumerate(plan.stages, 1):
        say(f"stage {number}     {stage.what}")
        say(f"            {stage.facts}, about {_duration(stage.seconds)}")
    seconds = sum(stage.seconds for stage in plan.stages)
    say(f"in all      about {_duration(seconds)}, without the codebook")
    print_failures(plan.unreadable.items())
    say("dry run: nothing was written")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
