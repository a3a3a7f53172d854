"""The command that trains a checkpoint and its codebook from a folder of photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.output import console, print_failures, staged_progress

if TYPE_CHECKING:
    from delf_engine.errors import ImageError
    from delf_engine.extraction import Extractor
    from delf_engine.model import CheckpointInfo
    from delf_engine.training.config import CodebookConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(train)


def train(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTOS...", help="Image files and folders, no labels.")],
    trunk: Annotated[Path, typer.Option(help="Weights to start from: safetensors with torchvision's names.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write; its codebook and model card go beside it.")],
    recipe: Annotated[str, typer.Option(help="Recipe by name or path (configs/train_NAME.toml).")] = "delf_r18",
    seed: Annotated[int, typer.Option(help="Same photographs, recipe and seed: same checkpoint.")] = 0,
    data: Annotated[str, typer.Option(help="What the photographs are, for the model card.")] = "",
    licence: Annotated[str, typer.Option(help="Of the checkpoint, for the model card.")] = "Apache-2.0",
    work: Annotated[Path | None, typer.Option(help="Folder for finished stages. Default: OUT with .work.")] = None,
    max_photos: Annotated[int | None, typer.Option(min=1, help="Take this many photographs at most.")] = None,
) -> None:
    """Train a checkpoint from photographs without labels. An interrupted run goes on when called again."""
    from delf_engine.extraction import Extractor
    from delf_engine.images import find_images
    from delf_engine.model import save_checkpoint
    from delf_engine.training import load_training_config
    from delf_engine.training.recipe import train as run

    config = load_training_config(recipe)
    files = find_images(photos)[:max_photos]
    console().print(f"{config.name}: {len(files)} photographs, trunk {trunk}, seed {seed}", highlight=False)
    failed: dict[str, str] = {}

    def on_error(path: str, error: ImageError) -> None:
        failed[path] = error.reason

    with staged_progress() as progress:
        trained = run(
            files,
            config,
            trunk,
            seed=seed,
            data=data,
            licence=licence,
            work=work or out.with_suffix(".work"),
            on_error=on_error,
            progress=progress,
        )
        info = save_checkpoint(out, trained.state, trained.info)
        good = [path for path in files if path not in failed]
        _write_codebook(out, Extractor.from_pretrained(out), good, config.codebook, seed, progress)
    _write_card(out, info)
    print_failures(failed.items())
    for name, value in info.figures.items():
        console().print(f"{name}: {value:.4f}", highlight=False)
    console().print(f"wrote {out}, {_codebook_file(out).name}, {out.with_suffix('.md').name}", highlight=False)
    if failed:
        raise typer.Exit(1)


def _codebook_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}.codebook.safetensors")


def _write_codebook(
    out: Path,
    extractor: Extractor,
    photos: Sequence[str],
    config: CodebookConfig,
    seed: int,
    progress: Callable[[str, int, int, float | None], None],
) -> None:
    """Train the codebook that travels with the checkpoint on the best features of the same photographs."""
    import numpy as np

    from delf_engine.index import Codebook

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


def _write_card(out: Path, info: CheckpointInfo) -> None:
    """Write the model card: what a person wants to know before using a checkpoint."""
    import json

    recipe = json.loads(info.recipe)
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in info.figures.items())
    out.with_suffix(".md").write_text(
        f"""# {info.name}

Local features for landmarks and other rigid things: {info.dim}-D descriptors, {info.architecture} trunk cut at
conv4, attention head, PCA. Made by `delf-engine train`, with no labels.

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
""",
        encoding="utf-8",
    )
