"""What each ingredient of training brings: one row a recipe, measured on every development set.

    python -m benchmarks.training.ablation --trunk WEIGHTS --pairs PAIRS.jsonl [--seeds 0 1 2]
        [--rows views head FILE.toml] [--architecture resnet50_v1] [--teacher CHECKPOINT] [--against CHECKPOINT]
        [--photos DIR] [--sets holidays_dev ukbench_dev] [--top 100 | --all] [--data DIR] [--cache DIR]

Rows are recipes of `benchmarks/training/recipes/`, by name, and recipes of your own, by path. Each is trained by
`delf_engine.training.train` with every seed, and measured as by `benchmarks.revisited.quality`, beside the first
row or `--against`. Figures are means over seeds, ± their standard deviation; differences have 95 % intervals over
resampled queries, of each query's mean over seeds: they know nothing of seeds that were not tried.

Pairs are to be mined from the landmarks that are for fitting; photographs without pairs, and the class folders of
rows that need some, are taken from there. Checkpoints and results lie beside the JSON file under the hash of all
they depend on (of the code only what verifies is part of it: choose another `--out` after other changes), so that
a second run only prints, and an interrupted one goes on, in the midst of a training too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import benchmarks.training.how_loss  # noqa: F401 - registers itself
from benchmarks.common import data_folder, options_parser, print_markdown, write_json
from benchmarks.revisited.quality import Row, compared, measured, measuring_options, searched_sets, tables
from benchmarks.systems import System, model_system
from benchmarks.verification.evidence import Evidence
from benchmarks.verification.sameness_sets import checked_sets, landmark_folders
from benchmarks.verification.searched_sets import SearchedSet
from delf_engine import __version__, load_profile
from delf_engine.cli.console import staged_progress
from delf_engine.errors import ConfigError, ImageError
from delf_engine.images import find_images
from delf_engine.model.device import choose_device
from delf_engine.training import Reports, RunOptions, TrainingConfig, load_training_config, train
from delf_engine.training.config import teacher_names, with_teacher
from delf_engine.training.finish import CheckpointFiles
from delf_engine.training.options import autocast_dtype
from delf_engine.training.photographs import Photographs
from delf_engine.training.registry import teacher_file
from delf_engine.training.work import file_digest, photographs_key

__all__ = ["RECIPES", "Bench", "chosen_recipes", "main", "merged_seeds"]

RECIPES = Path(__file__).with_name("recipes")
_FIRST = "views"
_PROFILES = {"resnet18": "default", "resnet50_v1": "strong"}
_EVERY = 6  # of this many photographs of a landmark one is trained on without its pair


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure the rows, seed by seed; print the tables after each that is new, write JSON."""
    args = _arguments(arguments)
    data = data_folder(args.data)
    recipes = chosen_recipes(args)
    labels = Evidence(model_system(args.labels), data, args.cache)
    searched = searched_sets(data, checked_sets(labels, args.sets))
    bench = Bench(args, data, searched, args.out.with_suffix(""))
    runs: dict[str, list[list[Row]]] = {}
    if args.against:
        runs[args.against] = [bench.rows(model_system(args.against), args.cache)[0]]
    jobs = [(recipe, seed) for seed in args.seeds for recipe in recipes]
    for recipe, seed in jobs:
        print(f"{recipe.name}, seed {seed}", file=sys.stderr)
        rows, new = bench.rows(model_system(str(bench.checkpoint(recipe, seed))))
        runs.setdefault(recipe.name, []).append(rows)
        if new or (recipe, seed) == jobs[-1]:
            results: list[Row] = []
            for name, found in runs.items():
                results.append({"system": name, "seeds": len(found), **compared(merged_seeds(found), results)})
            for table in tables(results):
                print_markdown(*table)
            write_json(args.out, {"labels": labels.system.identity, "results": results})


def chosen_recipes(args: argparse.Namespace) -> list[TrainingConfig]:
    """Return the rows to train, the one that the others are compared with first.

    Raises
    ------
    ConfigError
        If one is bad, two have one name, or one draws mined pairs and none were given.
    """
    every = sorted((path.stem for path in RECIPES.glob("*.toml")), key=lambda name: (name != _FIRST, name))
    recipes = []
    for row in dict.fromkeys(args.rows or every):
        recipe = load_training_config(row if row.endswith(".toml") else RECIPES / f"{row}.toml")
        if args.teacher and teacher_names(recipe.gradient_stages):
            recipe = with_teacher(recipe, args.teacher)
        if args.architecture:
            changes = {"architecture": args.architecture, "profile": _PROFILES[args.architecture]}
            recipe = recipe.model_copy(update=changes)
        if args.pairs is None and _draws(recipe, "mined"):
            raise ConfigError(f"row {row} draws mined pairs: give their file, --pairs FILE (delf-engine mine)")
        recipes.append(recipe)
    names = [recipe.name for recipe in recipes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two rows are called {', '.join(sorted(twice))}: names of recipes must differ")
    return recipes


def merged_seeds(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Return rows whose average precision is the mean over seeds, query by query.

    Parameters
    ----------
    runs : sequence of sequence of Row
        For each seed the rows of `quality.measured`, of the same sets in the same order.
    """
    merged = []
    for same in zip(*runs, strict=True):
        found = {
            s: np.array([row["average_precision"][s] for row in same], float) for s in same[0]["average_precision"]
        }
        means = {s: ap.mean(0).tolist() for s, ap in found.items()}
        precision = {s: [None if np.isnan(value) else value for value in mean] for s, mean in means.items()}
        of_seeds = {s: np.nanmean(ap, axis=1).tolist() for s, ap in found.items()}
        merged.append({**same[0], "average_precision": precision, "of_seeds": of_seeds})
    return merged


def _draws(recipe: TrainingConfig, source: str) -> bool:
    return any(stage.source.kind == source for stage in recipe.gradient_stages)


@dataclass(frozen=True)
class Bench:
    """What all rows share: options, photographs, sets, and the folder of what is kept."""

    args: argparse.Namespace
    data: Path
    searched: Sequence[SearchedSet]
    folder: Path

    def checkpoint(self, recipe: TrainingConfig, seed: int) -> Path:
        """Return the checkpoint of a recipe, trained if it is not there."""
        photos = self._photos(recipe)
        pairs = self.args.pairs if _draws(recipe, "mined") else None
        trunk = self.args.trunk or recipe.trunk
        device = choose_device("auto")
        facts = {
            "version": __version__,
            "torch": torch.__version__,
            "device": device.type,
            "arithmetic": str(autocast_dtype("auto", device)),
            "recipe": recipe.model_dump(mode="json", exclude={"name"}),
            "extraction": load_profile(recipe.profile).extraction.for_codebook().model_dump(mode="json"),
            "seed": seed,
            "trunk": file_digest(trunk),
            "photographs": photographs_key(Photographs.find(photos, recipe, seed=seed).files),
            "teachers": {name: file_digest(teacher_file(name)) for name in teacher_names(recipe.gradient_stages)},
            "pairs": file_digest(pairs),
        }
        files = CheckpointFiles(self.folder / "checkpoints" / f"{_hash(facts)}.safetensors")
        if files.card.is_file():  # it is written last
            return files.checkpoint
        files.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with staged_progress(quiet=not sys.stderr.isatty()) as progress:
            train(
                photos,
                recipe.model_copy(update={"name": f"{recipe.name}-{seed}"}),
                out=files.checkpoint,
                trunk=trunk,
                options=RunOptions(seed, pairs=pairs),
                reports=Reports(_unreadable, progress),
                # One folder for all: stages that recipes have in common from their start on are found there.
                work=self.folder / "work",
            )
        return files.checkpoint

    def rows(self, system: System, cache: Path | None = None) -> tuple[list[Row], bool]:
        """Return the rows of a system on all sets, and whether any of them was not known yet.

        Features, hundreds of MB a system, stay in `cache`; without it they are removed when all rows are known.
        """
        own = self.folder / "cache"
        evidence = Evidence(system, self.data, cache or own)
        asmk = [system.profile.asmk.model_dump(mode="json"), file_digest(system.codebook)]
        rows: list[Row] = []
        new = False
        for searched in self.searched:
            truth = json.dumps(asdict(searched.truth), default=np.ndarray.tolist)
            facts = {
                "system": evidence.key,
                "asmk": asmk,
                "set": searched.name,
                "truth": truth,
                "top": self.args.top,
            }
            path = self.folder / "results" / f"{_hash(facts)}.json"
            if not path.is_file():
                new = True
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(".tmp")
                temporary.write_text(json.dumps(measured(evidence, searched, self.args.top)), encoding="utf-8")
                temporary.replace(path)
            rows += json.loads(path.read_text(encoding="utf-8"))
        shutil.rmtree(own, ignore_errors=True)
        return rows, new

    def _photos(self, recipe: TrainingConfig) -> list[Path | str]:
        """Return what a row is trained on: `--photos`, or for one with classes the folders of landmarks to fit."""
        landmarks = landmark_folders(self.data, "fit") if (self.data / "landmarks").is_dir() else []
        if not _draws(recipe, "classes"):
            some = [file for folder in landmarks for file in find_images([folder])[::_EVERY]]
            return list(self.args.photos or [self.data / "photos", *some])
        classes = self.folder / "classes"
        shutil.rmtree(classes, ignore_errors=True)
        classes.mkdir(parents=True)
        for folder in landmarks:
            (classes / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
        return [classes]


def _unreadable(path: str, error: ImageError) -> None:
    print(f"left out: {path}: {error.reason}", file=sys.stderr)


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/ablation.json", data=True)
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", help="names or paths of recipes; default: all at hand"
    )
    parser.add_argument("--trunk", help="weights to start from; without it, the recipe's, else torchvision's")
    parser.add_argument("--pairs", type=Path, help="mined pairs, for rows that draw them")
    parser.add_argument(
        "--photos", nargs="+", help="to train on; default: photos/, and a sixth of the landmarks to fit"
    )
    parser.add_argument("--architecture", choices=_PROFILES, help="in place of the recipes', with its profile")
    parser.add_argument("--teacher", help="in place of the recipes'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training")
    parser.add_argument("--against", metavar="CHECKPOINT", help="to compare with; default: the first row")
    measuring_options(parser)
    args = parser.parse_args(given)
    args.seeds = list(dict.fromkeys(args.seeds))
    return args


if __name__ == "__main__":
    main()
