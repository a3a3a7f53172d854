"""Where the photographs and features of a run come from: data sets, folders, stores, or a stand-in."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.revisited.features import FeatureFile, Stores, given
from benchmarks.revisited.inputs import Inputs, photographs, read_inputs
from benchmarks.revisited.stages import Stages
from delf_engine.datasets import KNOWN, locate
from delf_engine.errors import DataError
from delf_engine.images import find_images

if TYPE_CHECKING:
    from benchmarks.revisited.synthetic import StandIn

__all__ = ["OTHER", "Source", "distractor_photographs", "source_of", "words_source"]

#: The set whose photographs a codebook is trained on: never those that are searched.
OTHER = {"roxford5k": "rparis6k", "rparis6k": "roxford5k"}

_SYNTHETIC_SEEDS = {"roxford5k": 1, "rparis6k": 2}
_LEAST_SHARED = 4  # fewer photographs, and both stand-ins are made from all of them
_OTHER_SHARE = 5  # the stand-in for the other set, which only trains words, is so many times smaller


@dataclass(frozen=True)
class Source:
    """What is measured, and what words are trained on.

    Attributes
    ----------
    inputs : Inputs
    features, query_features : FeatureFile or None
        The user's own; None: they are extracted.
    """

    inputs: Inputs
    features: FeatureFile | None = None
    query_features: FeatureFile | None = None


def source_of(name: str, args: argparse.Namespace, stores: Stores, stages: Stages) -> Source:
    """Find the set that a run measures.

    Raises
    ------
    DataError
        If it or images of it are missing, or the ground truth is of another set.
    """
    if args.synthetic:
        made = stand_in(name, args, stages)
        return _of_photographs(name, made.ground_truth, made.pictures, args)
    if args.ground_truth:
        ground_truth, images = args.ground_truth, args.images
    else:
        ground_truth, images = _located(name, args)
    if args.features:
        return _of_features(name, ground_truth, args, stores)
    return _of_photographs(name, ground_truth, images, args)


def stand_in(name: str, args: argparse.Namespace, stages: Stages, *, other: bool = False) -> StandIn:
    """Make the stand-in for a set, or for the other one, of other photographs if there are enough for both."""
    from benchmarks.revisited.synthetic import Options, make  # torch, which runs on stored features do without

    photos = None
    if args.synthetic_photos is not None:
        found = [Path(path) for path in find_images([args.synthetic_photos])]
        turn = sorted(OTHER).index(OTHER[name] if other else name)
        photos = found if len(found) < _LEAST_SHARED else found[turn :: len(OTHER)]
    images = max(20, args.synthetic_images // _OTHER_SHARE) if other else args.synthetic_images
    queries = 1 if other else args.synthetic_queries
    seed = _SYNTHETIC_SEEDS[OTHER[name] if other else name]
    made = f"synthetic-{'other-' if other else ''}{images}"
    options = Options(images, queries, seed, args.synthetic_side)
    folder = args.work / "synthetic" / f"{made}-seed-{seed}"
    total = images + queries
    key = f"{folder.name} {options}"
    done = stages.items(key) if folder.is_dir() else 0
    with stages.stage(f"making {made}", key, total, cached=done) as clock:

        def progress(now: int, _: int) -> None:
            nonlocal done
            clock.advance(max(0, now - done))
            done = max(done, now)

        return make(folder, made, options, photos, progress=progress)


def words_source(
    name: str, source: Source, args: argparse.Namespace, stages: Stages
) -> tuple[str, Mapping[str, Path]]:
    """Return the photographs that words are trained on, and what they are.

    Raises
    ------
    DataError
        If they are not there, or one of them is in the gallery, or a query.
    """
    if args.codebook != "other":
        folder, title = Path(args.codebook), Path(args.codebook).name
    elif args.synthetic:
        made = stand_in(name, args, stages, other=True)
        folder, title = made.pictures, made.ground_truth.stem.removeprefix("gnd_")
    else:
        title = OTHER[name]
        try:
            folder = _located(title, args)[1]
        except DataError as error:
            raise DataError(
                f"words are trained on the photographs of {title}: {error}. Or say --codebook shipped, or name a "
                "folder of photographs that are not searched"
            ) from error
    found = photographs(folder)
    if not args.synthetic:  # the names of stand-ins are alike
        shared = [n for n in (*source.inputs.truth.names, *source.inputs.truth.query_names) if n in found]
        if shared:
            raise DataError(
                f"{folder}: {len(shared):,} of these photographs are searched, such as {shared[0]}; words must be "
                "trained on others"
            )
    return title, found


def distractor_photographs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the photographs of ``--distractors`` by the names that they get in the gallery.

    None where the option is not given, or names a store of features.
    """
    if args.distractors is None or Path(args.distractors, "data.mdb").is_file():
        return {}
    known = args.distractors in KNOWN and not Path(args.distractors).is_dir()
    folder = locate(args.distractors, args.data).images if known else Path(args.distractors)
    paths = [Path(found) for found in find_images([folder])]
    return {f"distractors/{path.relative_to(folder).with_suffix('').as_posix()}": path for path in paths}


def _of_photographs(name: str, ground_truth: Path, folder: Path, args: argparse.Namespace) -> Source:
    images = photographs(folder)
    inputs = read_inputs(
        name,
        ground_truth,
        images,
        known=images.keys(),
        known_queries=images.keys(),
        allow_missing=args.allow_missing,
        without=args.without_query,
        where=folder,
    )
    return Source(inputs)


def _of_features(name: str, ground_truth: Path, args: argparse.Namespace, stores: Stores) -> Source:
    from delf_engine.evaluation import load_ground_truth

    whole = load_ground_truth(ground_truth)
    store = stores.given(args.features)
    gallery = given(store, whole.names)
    queries = given(
        stores.given(args.query_features or args.features, (store.dim, store.model)), whole.query_names
    )
    inputs = read_inputs(
        name,
        ground_truth,
        {},
        known=gallery.ids.keys(),
        known_queries=queries.ids.keys(),
        allow_missing=args.allow_missing,
        without=args.without_query,
        where=args.features,
    )
    return Source(inputs, gallery.only(inputs.truth.names), queries.only(inputs.truth.query_names))


def _located(name: str, args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the ground truth and the folder of photographs of a known set."""
    found = locate(name, args.data)
    assert found.ground_truth_file is not None
    return found.ground_truth_file, found.images
