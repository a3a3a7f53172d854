"""The command that trains a checkpoint and its codebook from a folder of photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import console, error_console, print_failures, say, staged_progress
from delf_engine.errors import ConfigError

if TYPE_CHECKING:
    from delf_engine.errors import ImageError
    from delf_engine.extraction import Extractor
    from delf_engine.model import CheckpointInfo
    from delf_engine.training.config import CodebookConfig, TrainingConfig
    from delf_engine.training.recipe import Trained

__all__ = ["register"]

_PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(train)


def train(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTOS...", help="Image files and folders.")],
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint to write, its codebook and card beside it. Default: its name.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe by name or path (configs/train_NAME.toml).")] = "delf_r18",
    trunk: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: a file (safetensors, .pth), or one of our checkpoints by name, path or "
            "URL. Default: the recipe's, else torchvision's, of ImageNet."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = False,
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
    licence: Annotated[str, typer.Option(help="Of the checkpoint, for the model card.")] = "Apache-2.0",
    work: Annotated[
        Path | None, typer.Option(help="Folder to go on from when called again. Default: OUT with .work.")
    ] = None,
    max_photos: Annotated[int | None, typer.Option(min=1, help="Take this many photographs at most.")] = None,
) -> None:
    """Train a checkpoint from photographs, with labels or without, as a recipe says.

    An interrupted or killed run goes on where it was when the same command is called again.
    """
    from delf_engine.images import find_images
    from delf_engine.training import load_training_config
    from delf_engine.training.labels import labelled_photographs

    if precision is not None and precision not in _PRECISIONS:
        raise ConfigError(f"--precision {precision}: choose one of {', '.join(_PRECISIONS)}")
    config = load_training_config(recipe)
    labelled = labelled_photographs(config, photos, seed)
    files = (find_images(photos) if labelled is None else labelled.paths())[:max_photos]
    options: dict[str, Any] = {
        "seed": seed,
        "device": device,
        "precision": precision,
        "cache_gb": cache_gb,
        "roots": photos,
        "pairs": pairs,
        "teacher": teacher,
    }
    out = out or Path(f"{config.name}.safetensors")
    work = work or out.with_suffix(".work")
    if dry_run:
        _print_plan(files, config, trunk, out, work, options)
        return
    failed: dict[str, str] = {}
    try:
        _train(files, config, trunk, out, failed, log, {**options, "data": data, "licence": licence, "work": work})
    finally:
        print_failures(failed.items())
        if failed:
            error_console().print(f"{len(failed)} of {len(files)} photographs could not be read", highlight=False)
    if failed:
        raise typer.Exit(1)


def _train(
    files: Sequence[str],
    config: TrainingConfig,
    trunk: str | None,
    out: Path,
    failed: dict[str, str],
    log: Path | None,
    options: dict[str, Any],
) -> None:
    """Train, and write checkpoint, codebook and card."""
    from delf_engine.config import load_profile
    from delf_engine.extraction import Extractor
    from delf_engine.model import save_checkpoint, update_checkpoint_info
    from delf_engine.training.log import tensorboard_log
    from delf_engine.training.recipe import train as run

    def on_error(path: str, error: ImageError) -> None:
        failed[path] = error.reason

    start = trunk or config.trunk or "torchvision's weights"
    console().print(
        f"{config.name}: {len(files)} photographs, trunk {start}, seed {options['seed']}", highlight=False
    )
    with staged_progress() as progress, tensorboard_log(log) as writer:
        trained = run(
            files,
            config,
            trunk,
            on_error=on_error,
            progress=progress,
            on_figures=_print_figures,
            log=writer,
            **options,
        )
        save_checkpoint(out, trained.state, trained.info)
        good = [path for path in files if path not in failed]
        extractor = Extractor.from_pretrained(out, config=load_profile(config.profile).extraction.for_codebook())
        found = _write_codebook(out, extractor, good, config.codebook, options["seed"], progress)
        info = update_checkpoint_info(out, codebook_sha256=found)
    _write_card(out, info, trained)
    for name, value in info.figures.items():
        console().print(f"{name}: {value:.4f}", highlight=False)
    console().print(f"wrote {out}, {_codebook_file(out).name}, {out.with_suffix('.md').name}", highlight=False)


def _print_figures(stage: str, step: int, figures: Mapping[str, float]) -> None:
    text = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    say(f"{stage}, step {step}: {text}")


def _print_plan(
    files: Sequence[str],
    config: TrainingConfig,
    trunk: str | None,
    out: Path,
    work: Path,
    options: dict[str, Any],
) -> None:
    """Print what a run would do."""
    from rich.markup import escape

    from delf_engine.training.plan import make_plan

    plan = make_plan(files, config, trunk, **options)
    lines = [
        f"recipe      {plan.recipe} ({plan.architecture}, {config.dim}-D), seed {options['seed']}",
        f"photographs {plan.photographs}: {plan.held_in} to train on, {plan.held_out} to measure on",
        f"readable    {plan.read - len(plan.unreadable)} of {plan.read} tried",
        f"trunk       {trunk or config.trunk or 'torchvision, IMAGENET1K_V1'}",
        f"device      {plan.device}",
        f"writes      {out}, {_codebook_file(out).name}, {out.with_suffix('.md').name}; state in {work}",
    ]
    for number, stage in enumerate(plan.stages, 1):
        unit = "photographs" if stage.kind == "pca" else "steps"
        lines.append(f"stage {number}     {stage.name}: {stage.what}")
        facts = [f"{stage.steps} {unit}", stage.precision]
        if stage.kind == "gradient":
            facts += [f"{stage.parameters:,} parameters", f"cache {stage.cache_bytes / 1e9:.2f} GB"]
        lines.append(f"            {', '.join(facts)}, about {_duration(stage.seconds)}")
    lines.append(
        f"in all      about {_duration(sum(stage.seconds for stage in plan.stages))}, without the codebook"
    )
    for line in lines:
        console().print(escape(line), highlight=False, soft_wrap=True)
    print_failures(plan.unreadable)
    console().print("dry run: nothing was written")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _codebook_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}.codebook.safetensors")


def _write_codebook(
    out: Path,
    extractor: Extractor,
    photos: Sequence[str],
    config: CodebookConfig,
    seed: int,
    progress: Callable[[str, int, int, float | None], None],
) -> str:
    """Train the codebook that travels with the checkpoint on the same photographs; return its hash."""
    import numpy as np

    from delf_engine.index import Codebook
    from delf_engine.training.projection import spread

    photos = spread(photos, config.photographs)
    descriptors = []
    for done, (_, features) in enumerate(extractor.extract_many(photos), 1):
        descriptors.append(features.top(config.features).descriptors)
        progress("features", done, len(photos), None)
    codebook = Codebook.train(
        np.concatenate(descriptors),
        config.words,
        iterations=config.iterations,
        seed=seed,
        half=True,
        progress=lambda done, total: progress("codebook", done, total, None),
    )
    codebook.save(_codebook_file(out))
    return codebook.hash


def _write_card(out: Path, info: CheckpointInfo, trained: Trained) -> None:
    """Write the model card: what a person wants to know before using a checkpoint."""
    import json

    recipe = json.loads(info.recipe)
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in info.figures.items())
    history = "\n".join(
        f"| {stage} | {step} | {', '.join(f'{name} {value:.2f}' for name, value in found.items())} |"
        for stage, measured in trained.history.items()
        for step, found in measured
    )
    out.with_suffix(".md").write_text(
        f"""# {info.name}

Local features for landmarks and other rigid things: {info.dim}-D descriptors, {info.architecture} trunk cut at
conv4, attention head, PCA. Made by `delf-engine train`.

| | |
|---|---|
| training data | {info.data} |
| seed | {info.seed} |
| licence | {info.licence} |
| preprocessing | {info.preprocessing} |
| profile | {info.profile} |
| SHA-256 of the weights | `{info.sha256}` |

## Recipe

```json
{json.dumps(recipe, indent=1)}
```

## Measured while training, on photographs held out

| figure | value |
|---|---|
{figures}

| stage | step | figures |
|---|---|---|
{history}
""",
        encoding="utf-8",
    )
