"""Commands of collections past one machine: plan, extract, index, merge, rerank, cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from delf_engine.cli.options import (
    DistancesOption,
    ModelOption,
    ProfileOption,
    SeedOption,
    TopNOption,
    WorkersOption,
    read_ids,
)
from delf_engine.cli.rerank import NamesOption, ShortlistsArgument

PlaceArgument = Annotated[str, typer.Argument(metavar="PLACE", help="Folder or address of plan and parts.")]
PartOption = Annotated[int, typer.Option(min=0, metavar="I", help="Number of the part, from 0 on.")]
CodebookOption = Annotated[
    Path | None, typer.Option(help="Visual words, the same for all parts. Default: the model's.")
]

shard_app = typer.Typer(
    name="shard",
    help="Index more than one machine can: parts that any scheduler's workers make by their number.\n\n"
    "A part that is there is skipped: the same command can run again, and twice at once. Places and photographs "
    "may lie in any store that fsspec reaches; credentials are its own. Each command prints one line of JSON.",
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
) -> None:
    """Divide photographs into parts. They are listed once; a plan that is there is left as it is."""
    from delf_engine.shards import plan_shards

    made = plan_shards(source, place, model=model, profile=profile, index=index, part_bytes=part_bytes)  # type: ignore[arg-type]
    _line({"place": place, "model": made.engine.model_identity, **made.model_dump(exclude={"engine"})})


@shard_app.command()
def extract(
    place: PlaceArgument,
    part: PartOption,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode ahead; 0: none. Default: as many as pay.")
    ] = None,
) -> None:
    """Extract the features of a part. Photographs that cannot be read are listed beside them, and exit code 0."""
    from delf_engine.shards import extract_part

    _line(extract_part(place, part, workers=workers).to_dict())


@shard_app.command()
def index(place: PlaceArgument, part: PartOption, codebook: CodebookOption = None) -> None:
    """Index the features of a part. The words of the first call are those of the place; others are refused."""
    from delf_engine.shards import index_part

    _line(index_part(place, part, codebook=codebook).to_dict())


@shard_app.command()
def merge(
    place: PlaceArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The new engine.")],
    codebook: CodebookOption = None,
    parts: Annotated[
        tuple[int, int] | None, typer.Option(metavar="FIRST LAST", help="These parts only, both included.")
    ] = None,
) -> None:
    """Make one engine of the parts. Nothing is computed again; parts that are missing are named."""
    from delf_engine.shards import merge_shards

    _line(merge_shards(place, directory, codebook=codebook, parts=parts))


@shard_app.command()
def rerank(
    place: PlaceArgument,
    shortlists: ShortlistsArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The re-ranked lists, in the format of its ending.")],
    queries: Annotated[Path, typer.Option(metavar="DIR", help="Engine that holds the queries, by their ids.")],
    part: Annotated[
        int | None,
        typer.Option(min=0, metavar="I", help="Verify the candidates of this part only, and write no file yet."),
    ] = None,
    names: NamesOption = None,
    query_names: Annotated[Path | None, typer.Option(help="As --queries of rerank.")] = None,
    distances: DistancesOption = False,
    top_n: TopNOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
) -> None:
    """Re-rank shortlists of images of all parts: one part by its number, or what is left of them and the file."""
    from delf_engine.engine.directory import FEATURES
    from delf_engine.reranking import read_shortlists
    from delf_engine.reranking.shortlists import check_rankings_file
    from delf_engine.shards import rerank_shards
    from delf_engine.storage import FeatureStore

    rows, asked = (None if path is None else read_ids(path) for path in (names, query_names))
    check_rankings_file(out)
    lists = dict(read_shortlists(shortlists, names=rows, queries=asked, distances=distances))
    options: dict[str, Any] = {"top_n": top_n, "seed": seed, "workers": workers}
    with FeatureStore.open(queries / FEATURES, readonly=True) as features:
        _line(rerank_shards(place, features, lists, out, part=part, **options))


@shard_app.command()
def cost(
    photographs: Annotated[int, typer.Argument(metavar="N", min=1, help="Photographs.")],
    figures: Annotated[
        Path | None, typer.Option(metavar="JSON", help="What an earlier call has printed. Default: measure here.")
    ] = None,
    shard: Annotated[int, typer.Option(min=1, help="Photographs that one searcher holds.")] = 1_000_000,
    model: ModelOption = "delf-r18",
) -> None:
    """Say what N photographs take: time, storage, memory, and the time of a query. Measuring takes a minute."""
    from delf_engine.config import parse_config
    from delf_engine.shards import Figures, estimate_shards, measure_shards
    from delf_engine.support.files import library_errors

    if figures is None:
        measured = measure_shards(model)
    else:
        with library_errors(f"{figures}: cannot be read"):
            values = json.loads(figures.read_text())["figures"]
        measured = parse_config(Figures, values, where=str(figures))
    _line({"figures": measured.model_dump(), **estimate_shards(photographs, measured, shard=shard)})


def _line(values: dict[str, Any]) -> None:
    """Print one line of JSON, in ASCII: what schedulers collect."""
    sys.stdout.write(f"{json.dumps(values)}\n")
