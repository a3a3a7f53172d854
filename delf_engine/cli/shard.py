"""Commands of collections past one machine: plan, extract, codebook, index, merge, cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import print_json, say, staged_progress
from delf_engine.cli.options import JsonOption, ModelOption, ProfileOption

if TYPE_CHECKING:
    from delf_engine.shards import PartReport

PlaceArgument = Annotated[str, typer.Argument(metavar="PLACE", help="Folder or address of plan and parts.")]
PartOption = Annotated[int, typer.Option(min=0, metavar="I", help="Number of the part, from 0 on.")]

shard_app = typer.Typer(
    name="shard",
    help="Index more than one machine can: parts that any scheduler's workers make by their number.\n\n"
    "A part that is there is skipped, so the same command can run again, and twice at once. Places and photographs may "
    "lie in any store that fsspec reaches; credentials are its own. `extract`, `index` and `merge` print one line of "
    "JSON.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@shard_app.command()
def plan(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, an address, or a list: *.txt, *.parquet.")
    ],
    place: PlaceArgument,
    model: ModelOption = "delf-r18",
    profile: ProfileOption = None,
    index: Annotated[str | None, typer.Option(help="asmk, ivf, bow, vlad, fisher or kdtree.")] = None,
    part_bytes: Annotated[int, typer.Option(min=1, help="Bytes of photographs a part.")] = 256 << 20,
    as_json: JsonOption = False,
) -> None:
    """Divide photographs into parts. They are listed once; a plan that is there is left as it is."""
    from delf_engine.shards import plan_shards

    made = plan_shards(source, place, model=model, profile=profile, index=index, part_bytes=part_bytes)  # type: ignore[arg-type]
    if as_json:
        values = {"place": place, "model": made.engine.model_identity, "profile": made.engine.profile.name}
        print_json({**values, **made.model_dump(exclude={"engine"})})
    else:
        say(f"{place}: {made.images:,} photographs, {made.bytes:,} bytes, in parts 0 to {made.parts - 1}")


@shard_app.command()
def extract(
    place: PlaceArgument,
    part: PartOption,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode ahead; 0: none. Default: as many as pay.")
    ] = None,
) -> None:
    """Extract the features of a part. Photographs that cannot be read are listed beside them; the exit code is 0."""
    from delf_engine.shards import extract_part

    _log(extract_part(place, part, workers=workers))


@shard_app.command()
def codebook(
    place: PlaceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    words: Annotated[int, typer.Option(help="Visual words.")],
    parts: Annotated[int, typer.Option(min=1, help="Parts, drawn at random, that they are trained on.")] = 100,
    mixture: Annotated[
        bool, typer.Option("--mixture", help="Fit a mixture of so many Gaussians instead, for Fisher vectors.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the choice of parts and of the first words.")] = 0,
) -> None:
    """Train visual words on some of the extracted parts."""
    from delf_engine.shards import train_shard_words

    with staged_progress() as progress:
        trained = train_shard_words(place, words, parts=parts, mixture=mixture, seed=seed, progress=progress)
    trained.save(out)
    say(f"{words:,} words of {trained.dim} dimensions written to {out}")


@shard_app.command()
def index(
    place: PlaceArgument,
    part: PartOption,
    codebook: Annotated[
        Path | None,
        typer.Option(help="Visual words, the same for all parts. Default: the place's, or the model's."),
    ] = None,
) -> None:
    """Index the features of a part. The first call puts the words into the place; others are then refused."""
    from delf_engine.shards import index_part

    _log(index_part(place, part, codebook=codebook))


@shard_app.command()
def merge(
    place: PlaceArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The new engine.")],
    parts: Annotated[
        tuple[int, int] | None, typer.Option(metavar="FIRST LAST", help="These parts only, both included.")
    ] = None,
) -> None:
    """Make one engine of the parts. Nothing is computed again; parts that are missing are named."""
    from delf_engine.shards import merge_shards

    _line(merge_shards(place, directory, parts=parts).to_dict())


@shard_app.command()
def cost(
    photographs: Annotated[int, typer.Argument(metavar="N", min=1, help="Photographs.")],
    figures: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Figures of an earlier `cost --json`. Default: measure here."),
    ] = None,
    shard: Annotated[int, typer.Option(min=1, help="Photographs that one searcher holds.")] = 1_000_000,
    model: ModelOption = "delf-r18",
    as_json: JsonOption = False,
) -> None:
    """Say what N photographs take: time, storage, memory, and the time of a query. Measuring takes a minute."""
    from delf_engine.config import parse_config
    from delf_engine.shards import Figures, estimate_shards, measure_shards
    from delf_engine.support.files import library_errors

    if figures is None:
        measured = measure_shards(model)
    else:
        with library_errors(f"{figures}: cannot be read"):
            values = json.loads(figures.read_text())
            values = values.get("figures", values)
        measured = parse_config(Figures, values, where=str(figures))
    found = estimate_shards(photographs, measured, shard=shard)
    if as_json:
        print_json({"figures": measured.model_dump(), "estimate": found})
    else:
        for name, value in found.items():
            say(f"{name.replace('_', ' '):32} {_readable(name, value)}")


def _readable(name: str, value: float) -> str:
    if "bytes" in name:
        return f"{value / 1e12:,.2f} TB" if value >= 1e11 else f"{value / 1e9:,.2f} GB"
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.3g}"


def _log(report: PartReport) -> None:
    _line(report.to_dict())


def _line(values: dict[str, Any]) -> None:
    """Print one line of JSON, in ASCII: what schedulers collect."""
    sys.stdout.write(f"{json.dumps(values)}\n")
