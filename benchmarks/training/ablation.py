"""What each ingredient of a checkpoint brings, on Sub-RParis.

    python -m benchmarks.training.ablation --trunk WEIGHTS [--recipe delf_r18] [--seeds 0 1 2]
        [--rows full head 'dim-*']
        [--teacher CHECKPOINT] [--other-teacher aliked:FILE] [--steps-factor 0.05] [--list]

Rows that train are overrides of the recipe, run by the package's own trainer; the others change the checkpoint of
the full recipe (PCA, smoothing), or how features are extracted with it. Each row and seed is measured once: its
result lies in OUT under the hash of all it depends on (the package's code is not part of it: choose another OUT
after changes), so that a second run only prints, and an interrupted one goes on, in the midst of a training too.
The table is printed after every row. Columns: mAP Medium / Hard of candidates by ASMK alone; of all images ranked
by similarity over mutual matches (no geometry), by inliers, and by both weighted. Means over seeds; differences to
the full recipe with 95 % intervals over resampled queries, paired.

The codebook of each row is smaller than the one that travels with a checkpoint (--words, --codebook-photos), alike
for all rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import data_folder, options_parser, print_table, sub_rparis, write_json
from benchmarks.revisited.ranking_rules import Row, compare
from benchmarks.training.ablation_rows import FULL, AblationRow, ablation_rows, chosen_rows, shortened
from benchmarks.training.ablation_run import COLUMNS, Bench
from delf_engine import load_profile
from delf_engine.config import Profile
from delf_engine.evaluation import SETUPS, Setup
from delf_engine.images import find_images
from delf_engine.training import TrainingConfig, load_training_config
from delf_engine.training.config import teacher_names, with_teacher

#: The setups that are printed; results hold Easy as well.
_SHOWN: tuple[Setup, ...] = ("medium", "hard")
#: The columns whose difference to the full recipe is printed; results hold all.
_COMPARED = ("similarity", "weighted")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows, seed by seed; print the table after each, write JSON at the end."""
    args = _arguments(arguments)
    recipe = load_training_config(args.recipe)
    profile = load_profile(args.profile or recipe.profile)
    rows = _rows(recipe, profile, args)
    chosen = chosen_rows(rows, args.rows)
    if args.list:
        print_table(f"rows for {args.recipe}", ["--rows", "row"], [[row.key, row.label] for row in chosen])
        return
    data = data_folder(args.data)
    bench = Bench(
        photos=find_images(args.photos or [str(data / "photos")])[: args.max_photos],
        truth=sub_rparis(data),
        data=data,
        profile=profile,
        trunk=args.trunk or recipe.trunk,
        pairs=args.pairs,
        out=args.out,
        words=args.words,
        codebook_photos=args.codebook_photos,
        ransac_seeds=args.ransac_seeds,
        device=args.device,
        cache_gb=args.cache_gb,
    )
    title = f"{args.recipe}: Sub-RParis, {len(bench.truth)} queries, {len(bench.truth.names)} images"
    try:
        new = _measure(bench, rows, chosen, args.seeds, title)
        if not new:
            show(title, summary(bench, rows, args.seeds))
    finally:
        options = {key: str(value) for key, value in vars(args).items()}
        table = summary(bench, rows, args.seeds)
        write_json(args.out / "ablation.json", {"options": options, "rows": table})


def _measure(
    bench: Bench, rows: Sequence[AblationRow], chosen: Sequence[AblationRow], seeds: Sequence[int], title: str
) -> int:
    """Measure what is not known yet, the table after each; return how many that were."""
    new = 0
    for seed in seeds:
        for row in chosen:
            if seed != seeds[0] and not row.seeded:
                continue  # nothing in it is drawn at random
            if bench.result(row, seed, compute=False) is None:
                bench.result(row, seed)
                show(title, summary(bench, rows, seeds))
                new += 1
    return new


def _rows(recipe: TrainingConfig, profile: Profile, args: argparse.Namespace) -> list[AblationRow]:
    others = list(args.other_teacher)
    if args.teacher and teacher_names(recipe.gradient_stages):
        recipe = with_teacher(recipe, args.teacher)
    elif args.teacher:
        others.insert(0, args.teacher)
    rows = ablation_rows(recipe, profile.extraction, others)
    return [replace(row, recipe=shortened(row.recipe, args.steps_factor)) for row in rows]


def summary(bench: Bench, rows: Sequence[AblationRow], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return what is known of each row: means over seeds, spread, and differences to the full recipe."""
    found = [
        (row, [r for r in (bench.result(row, seed, compute=False) for seed in seeds) if r is not None])
        for row in rows
    ]
    merged = {
        row.key: {c: merged_seeds([r["columns"][c] for r in runs]) for c in COLUMNS} for row, runs in found if runs
    }
    full = merged.get(FULL)
    return [
        {
            "row": row.key,
            "label": row.label,
            "seeds": [run["seed"] for run in runs],
            "columns": merged[row.key],
            "minus_full": None if full is None or row.key == FULL else _differences(merged[row.key], full),
            "seconds": [run["seconds"] for run in runs],
            "training_figures": [run["training_figures"] for run in runs],
        }
        for row, runs in found
        if runs
    ]


def merged_seeds(runs: Sequence[Row]) -> Row:
    """Return the mean of one column over seeds of training, query by query.

    Parameters
    ----------
    runs : sequence of Row
        As `ranking_rules.row_of` gives them, of the same queries.
    """
    merged: Row = {}
    for setup in SETUPS:
        names = list(runs[0][setup]["average_precision"])
        values = np.array(
            [[np.nan if (v := run[setup]["average_precision"][n]) is None else v for n in names] for run in runs]
        )
        means = values.mean(0)
        of_seeds = [float(run[setup]["mean_ap"]) for run in runs]
        merged[setup] = {
            "mean_ap": float(np.mean(of_seeds)),
            "of_seeds": of_seeds,
            "spread": float(np.std(of_seeds)),
            "average_precision": {n: None if np.isnan(v) else float(v) for n, v in zip(names, means, strict=True)},
        }
    return merged


def _differences(row: Mapping[str, Row], full: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    return {c: {s: d.to_dict() for s, d in compare(row[c], full[c]).items()} for c in COLUMNS}


def show(title: str, table: Sequence[Mapping[str, Any]]) -> None:
    """Print the figures of each row, Medium / Hard, and their differences to the full recipe."""
    setups = " / ".join(setup.capitalize() for setup in _SHOWN)
    columns = ["row", *COLUMNS, f"spread, {_COMPARED[-1]}", "seeds"]
    print_table(f"{title}; mAP {setups}", columns, [_figures(entry) for entry in table])
    columns = ["row - full recipe", *(f"{c}, {s.capitalize()}" for c in _COMPARED for s in _SHOWN)]
    compared = [entry for entry in table if entry["minus_full"] is not None]
    if compared:
        print_table("differences [95 %, paired over queries]", columns, [_gaps(entry) for entry in compared])


def _figures(entry: Mapping[str, Any]) -> list[str]:
    def both(column: str, key: str) -> str:
        return " / ".join(f"{entry['columns'][column][setup][key]:.1f}" for setup in _SHOWN)

    seeds = len(entry["seeds"])
    spread = both(_COMPARED[-1], "spread") if seeds > 1 else ""
    return [entry["label"], *(both(column, "mean_ap") for column in COLUMNS), spread, str(seeds)]


def _gaps(entry: Mapping[str, Any]) -> list[str]:
    found = [entry["minus_full"][column][setup] for column in _COMPARED for setup in _SHOWN]
    return [entry["label"], *(f"{d['difference']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]" for d in found)]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/ablation")
    parser.add_argument("--recipe", default="delf_r18", help="name or path; the full recipe")
    parser.add_argument("--trunk", help="weights to start from; without it, the recipe's, else torchvision's")
    parser.add_argument("--photos", nargs="+", help="to train on; without it, photos/ in the data folder")
    parser.add_argument("--max-photos", type=int, help="take this many of them at most")
    parser.add_argument("--data", help="folder that holds paris/ and revisited/")
    parser.add_argument("--profile", help="name or path; without it, the recipe's")
    parser.add_argument("--teacher", help="in place of the recipe's; for a recipe without one, in rows of its own")
    parser.add_argument("--other-teacher", action="append", default=[], help="rows with it, too; may be repeated")
    parser.add_argument("--pairs", type=Path, help="mined pairs, for recipes that draw them")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these; * matches anything")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training")
    parser.add_argument("--ransac-seeds", type=int, default=3, help="of each verification")
    parser.add_argument("--steps-factor", type=float, default=1.0, help="shorter training, to try the script")
    parser.add_argument("--words", type=int, default=4096, help="of each row's codebook")
    parser.add_argument("--codebook-photos", type=int, default=400, help="photographs each codebook is made of")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache-gb", type=float, default=8.0, help="maps of views kept while training")
    args = parser.parse_args(given)
    if args.steps_factor <= 0 or min(args.ransac_seeds, args.words, args.codebook_photos) < 1:
        parser.error("--steps-factor, --ransac-seeds, --words and --codebook-photos must be above 0")
    args.seeds = list(dict.fromkeys(args.seeds))
    return args


if __name__ == "__main__":
    main()
