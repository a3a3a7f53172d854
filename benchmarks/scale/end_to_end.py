"""Photographs on a cluster of two nodes, one of which is killed in every stage, beside one machine.

python -m benchmarks.scale.end_to_end [--photographs 20000]

Synthetic photographs are small and get one scale, so that many take minutes. The rate of extraction is that of the
default profile: `extract_many` in two processes, and parts on Ray, in turns, on the same two cores.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.common import options_parser, print_rows, print_table, timed, write_json
from benchmarks.scale.cluster import killed_node, two_nodes
from delf_engine import Engine, Extractor
from delf_engine.config import Profile, load_profile, parse_config
from delf_engine.reranking import write_rankings
from delf_engine.shards import merge_shards, plan_shards
from delf_engine.shards.ray import make_parts, rerank_parts

_SMALL = {"scales": [1.0], "fill_scales": [], "max_features": 100, "min_image_size": 64}
_VIEWS, _PARTS, _QUERIES = 5, 40, 100  # of a scene, of all photographs, to re-rank
_RATED, _ROUNDS = 160, 4


def main() -> None:
    """Measure, print, write JSON."""
    parser = options_parser(__doc__, "out/scale_end_to_end.json")
    parser.add_argument("--photographs", type=int, default=20_000)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of all processes here, as Ray sets it for tasks of one core
    with tempfile.TemporaryDirectory(prefix="delf-scale-") as temporary, two_nodes() as cluster:
        folder = Path(temporary)
        _write(folder / "photographs", args.photographs)
        rates = _rates(folder)
        stages, same = _stages(cluster, folder)
    columns = {"stage": "{stage}", "s": "{seconds:.0f}", "parts": "{parts}", "done at the kill": "{there}"}
    columns |= {"kept": "{kept}", "begun twice": "{lost}"}
    print_rows(f"{args.photographs:,} photographs on two nodes, one killed in each stage", stages, columns)
    rows = [[what, "to the bit" if equal else "NO"] for what, equal in same.items()]
    print_table("equal to one machine's", ["what", "equal"], rows)
    columns = {"extract_many": "{plain:.1f}", "parts on Ray": "{ray:.1f}", "share": "{share:.2f}"}
    print_rows("photographs a second, default profile, two cores", rates, columns)
    write_json(args.out, {"stages": stages, "same": same, "rates": rates})


def _write(folder: Path, count: int) -> list[str]:
    """Write scenes, each in several views; return paths."""
    folder.mkdir()
    for number in range(count):
        scene, view = np.random.default_rng([0, number // _VIEWS]), np.random.default_rng([1, number])
        image = np.full((144, 160, 3), 128.0)
        for cell in (4, 16, 48):
            grid = scene.normal(0, 40, (144 // cell + 1, 160 // cell + 1, 3))
            image += grid.repeat(cell, axis=0).repeat(cell, axis=1)[:144, :160]
        y, x = view.integers(0, 32, 2)
        cut = np.clip(image[y : y + 96, x : x + 128], 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), cut)
    return sorted(map(str, folder.iterdir()))


def _rates(folder: Path) -> list[dict[str, float]]:
    """Return photographs a second, plain and on Ray, of several rounds in turns; the first loads models.

    Plain is the quickest way on two cores: two processes of one thread each.
    """
    paths, place, rounds = _write(folder / "rated", _RATED), folder / "rated-parts", []
    plan_shards(folder / "rated", place, part_bytes=sum(map(os.path.getsize, paths)) // 8)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for _ in range(_ROUNDS + 1):
            plain, _ = timed(lambda: list(pool.map(_extracted, (paths[::2], paths[1::2]))))
            shutil.rmtree(place / "features", ignore_errors=True)
            ray, _ = timed(lambda: make_parts(place, "features"))
            rounds.append({"plain": _RATED / plain, "ray": _RATED / ray, "share": plain / ray})
    return rounds[1:]


def _extracted(paths: list[str]) -> int:
    return sum(1 for _ in _extractor().extract_many(paths, workers=0))


@lru_cache
def _extractor() -> Extractor:
    return Extractor.from_pretrained("delf-r18")


def _stages(cluster: Any, folder: Path) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    """Make all of it on one machine and on the cluster; return what became of each stage, and what is equal."""
    photographs, place, values = folder / "photographs", folder / "place", load_profile("default").model_dump()
    values["extraction"] |= _SMALL
    profile = parse_config(Profile, values, where="small")
    one = Engine.create(folder / "one", profile=profile, root=photographs)
    one.add(photographs)
    size = sum(path.stat().st_size for path in photographs.iterdir())
    plan = plan_shards(photographs, place, profile=profile, part_bytes=size // _PARTS)
    stages = []
    for stage in ("features", "index"):
        with killed_node(cluster, place, stage, plan.parts // 3) as told:
            make_parts(place, stage)
        stages.append(told)
    ids = one.ids()
    queries = {name: one.get(name) for name in ids[:: max(1, len(ids) // _QUERIES)]}
    found = one.index.search_many(queries.values(), 100)
    lists: Any = {
        q: list(zip(names, s.tolist(), strict=True)) for q, (names, s) in zip(queries, found, strict=True)
    }
    with killed_node(cluster, place, "reranked/*", plan.parts // 3) as told:
        rerank_parts(place, queries, lists, folder / "parts.jsonl")
    stages.append(told)
    write_rankings(folder / "one.jsonl", one.rerank_many(lists).rankings)
    merge_shards(place, folder / "merged")
    with Engine.open(folder / "merged", readonly=True) as merged:
        answers = zip(merged.index.search_many(queries.values(), 100), found, strict=True)
        same = {
            "ids": merged.ids() == ids,
            "features": all(merged.get(name) == one.get(name) for name in ids),
            "candidates": all(a[0] == b[0] and a[1].tobytes() == b[1].tobytes() for a, b in answers),
            "rankings": (folder / "parts.jsonl").read_bytes() == (folder / "one.jsonl").read_bytes(),
        }
    one.close()
    return stages, same


if __name__ == "__main__":
    main()
