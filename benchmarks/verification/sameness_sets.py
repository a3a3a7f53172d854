"""Labelled pairs of pictures from the data folder: what calibrations are fitted on, and what they are checked on.

Which of `landmarks/` show one place is settled by geometry, as folder names are often wrong; by a hash of its name
a folder is for fitting, for choosing, or held out.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.common import sub_rparis
from benchmarks.verification.evidence import Evidence, Picture
from benchmarks.verification.overlays import OVERLAYS
from benchmarks.verification.strecha import labelled_pairs, load_views
from delf_engine import Verification
from delf_engine.evaluation import GroundTruth
from delf_engine.images import find_images

__all__ = [
    "CHECKED",
    "Judged",
    "PairSet",
    "across",
    "checked_sets",
    "fitted_sets",
    "judged",
    "landmark_folders",
    "landmark_part",
    "linked",
    "paris_truth",
    "thumbnails",
    "wearing",
]

Names = tuple[str, str]
Part = Literal["fit", "choose", "held out"]
Bools = npt.NDArray[np.bool_]

#: Sets that no calibration is fitted on.
CHECKED = (
    "landmarks choose",
    "landmarks choose, all",
    "landmarks held out",
    "landmarks held out, all",
    "holidays_dev",
    "ukbench_dev",
    "paris",
    "distractors",
)

_A_FOLDER = 20  # photographs at most
_SAMPLED = 60_000  # pairs of different places at most
#: Pairs of different places that get fine evidence: those with most inliers, and so many of the rest.
_HARD, _REST = 1500, 1000
#: Fine matches on one epipolar geometry, or on one plane: more than any overlay gives, than look-alikes give, and
#: than chance gives.
_CERTAIN, _SURE, _CHANCE = (60, 40), (25, 15), (18, 8)
_SURE_INLIERS = 60
_COPY = 0.6
_SHARE = (0.25, 0.8)
_THUMBNAIL = 100
_RARE = 0.02  # about 1 in 10,000 pairs of different places wear the same


@dataclass(frozen=True)
class PairSet:
    """Pairs of pictures of which it is known whether they show one place.

    Attributes
    ----------
    name : str
    pictures : dict of id to Picture
    pairs : list of P (id, id)
    labels : (P,) bool
        Whether they show one place.
    places : list of P (str, str)
        That the two pictures show.
    weight : float
        How much each pair counts: few photographs wear the same frame.
    """

    name: str
    pictures: dict[str, Picture]
    pairs: list[Names]
    labels: Bools
    places: list[Names]
    weight: float = 1.0


class Judged(NamedTuple):
    """Pairs of a set with all evidence, (Q,) each; `weights` are pairs that each one stands for."""

    verifications: list[Verification]
    labels: Bools
    weights: npt.NDArray[np.float64]
    places: list[Names]
    pairs: list[Names]


def judged(evidence: Evidence, pairs: PairSet) -> Judged:
    """Return all pairs of one place, the most alike of different ones, some of the others; with fine evidence."""
    evidence.pictures.update(pairs.pictures)
    kept = pairs.name.split(",")[0]
    coarse = evidence.verified(kept, pairs.pairs)
    alike = np.array([(v.inliers, v.inlier_similarity) for v in coarse]).reshape(-1, 2)
    wrong = np.flatnonzero(~pairs.labels)
    wrong = wrong[np.lexsort((wrong, *-alike[wrong].T[::-1]))]
    rest = wrong[_HARD:]
    drawn = np.random.default_rng(0).choice(rest, min(_REST, len(rest)), replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(pairs.labels), wrong[:_HARD], drawn])).astype(int)
    weights = np.full(len(coarse), pairs.weight)
    weights[drawn] *= len(rest) / max(1, len(drawn))
    asked = [pairs.pairs[i] for i in rows]
    found = evidence.verified(kept, asked, fine=True)
    return Judged(found, pairs.labels[rows], weights[rows], [pairs.places[i] for i in rows], asked)


# ------------------------------------------------------------------------------------------------------- sets


def fitted_sets(evidence: Evidence) -> list[PairSet]:
    """Return the sets that calibrations are fitted on."""
    return [
        _strecha(evidence, cut=False),
        _strecha(evidence, cut=True),
        _unrelated(evidence.data),
        landmarks := landmark_part(evidence, "fit", indirect=True),
        thumbnails(landmarks, _some(landmarks.labels, 400, 4000)),
        wearing(landmarks, _some(landmarks.labels, 240, 0), list(OVERLAYS)[::2]),
        _framed(evidence.data, list(OVERLAYS)[::2]),
    ]


def checked_sets(evidence: Evidence, names: Sequence[str] = CHECKED) -> list[PairSet]:
    """Return sets that no calibration is fitted on, by their names in `CHECKED`."""
    data = evidence.data
    makers: dict[str, Callable[[], PairSet]] = {
        "landmarks choose": lambda: landmark_part(evidence, "choose"),
        "landmarks choose, all": lambda: landmark_part(evidence, "choose", indirect=True),
        "landmarks held out": lambda: landmark_part(evidence, "held out"),
        "landmarks held out, all": lambda: landmark_part(evidence, "held out", indirect=True),
        "holidays_dev": lambda: _grouped(data, "holidays_dev", lambda stem: stem[:4]),
        "ukbench_dev": lambda: _grouped(data, "ukbench_dev", lambda stem: str(int(stem[-5:]) // 4)),
        "paris": lambda: _paris(data),
        "distractors": lambda: _grouped(data, "distractors", lambda stem: stem),
    }
    return [makers[name]() for name in names]


def _pairset(
    name: str, pictures: Iterable[Picture], rows: Iterable[tuple[Picture, Picture, bool, str, str]]
) -> PairSet:
    found = list(rows)
    return PairSet(
        name,
        {picture.id: picture for picture in pictures},
        [(a.id, b.id) for a, b, *_ in found],
        np.array([same for _, _, same, *_ in found], bool),
        [(p, q) for *_, p, q in found],
    )


def _files(data: Path, folder: str) -> list[Picture]:
    return [Picture(Path(path).relative_to(data).as_posix()) for path in find_images([data / folder])]


def _grouped(data: Path, folder: str, group: Callable[[str], str]) -> PairSet:
    """Return all pairs of the photographs of a folder, which show one place if their names have one group."""
    pictures = _files(data, folder)
    of = {picture.id: group(Path(picture.file).stem) for picture in pictures}
    rows = ((a, b, of[a.id] == of[b.id], of[a.id], of[b.id]) for a, b in itertools.combinations(pictures, 2))
    return _pairset(folder, pictures, rows)


def paris_truth(data: Path) -> tuple[GroundTruth, dict[str, Picture]]:
    """Return the ground truth of Sub-RParis (256) by ids of pictures, and these; queries are cut out."""
    truth = sub_rparis(data, more=True)
    first = {path.stem for path in (data / "paris").glob("*.jpg")}
    gallery = [Picture(f"{'paris' if name in first else 'paris_more'}/{name}.jpg") for name in truth.names]
    boxes = zip(truth.query_names, truth.boxes.tolist(), strict=True)
    queries = [Picture(f"paris/{name}.jpg", box=tuple(box)) for name, box in boxes]
    named = replace(truth, names=tuple(p.id for p in gallery), query_names=tuple(p.id for p in queries))
    return named, {picture.id: picture for picture in [*queries, *gallery]}


def _paris(data: Path) -> PairSet:
    """Return the queries of Sub-RParis (256), cut out, with its gallery; junk is left out."""
    truth, pictures = paris_truth(data)
    queries, gallery = ([pictures[name] for name in names] for names in (truth.query_names, truth.names))
    rows = [
        (
            query,
            picture,
            i in {*truth.easy[q], *truth.hard[q]},
            Path(query.file).stem.split("_")[1],
            Path(picture.file).stem.split("_")[1],
        )
        for q, query in enumerate(queries)
        for i, picture in enumerate(gallery)
        if i not in set(truth.junk[q])
    ]
    return _pairset("paris", [*queries, *gallery], rows)


def _strecha(evidence: Evidence, *, cut: bool) -> PairSet:
    """Return pairs of Strecha's views of which something is known; if `cut`, a random part of either one."""
    views = load_views(evidence.data / "strecha")
    pictures = [Picture(f"strecha/{view.name}") for view in views]
    asked = [
        (p.first, p.second, p.kind == "same") for p in labelled_pairs(views) if p.kind in ("same", "different")
    ]
    if not cut:
        rows = [(pictures[i], pictures[j], same, views[i].scene, views[j].scene) for i, j, same in asked]
        return _pairset("strecha", pictures, rows)
    cuts = _cut_out(evidence.data, pictures)
    both = [turn for i, j, same in asked for turn in ((i, j, same), (j, i, same))]
    rows = [(cuts[i], pictures[j], same, views[i].scene, views[j].scene) for i, j, same in both]
    return _pairset("strecha cut out", [*pictures, *cuts], rows)


def _cut_out(data: Path, pictures: Sequence[Picture]) -> list[Picture]:
    """Return a random part of each picture, whose sides are log-uniform parts of its own."""
    from PIL import Image

    rng = np.random.default_rng(0)
    found = []
    for picture in pictures:
        with Image.open(data / picture.file) as image:
            size = np.array(image.size)
        w, h = np.exp(rng.uniform(np.log(_SHARE[0]), np.log(_SHARE[1]), 2)) * size
        x, y = rng.uniform(0, size[0] - w), rng.uniform(0, size[1] - h)
        found.append(replace(picture, box=tuple(round(float(v), 1) for v in (x, y, x + w, y + h))))
    return found


def _unrelated(data: Path) -> PairSet:
    """Return pairs of unrelated photographs, and of those with views of Strecha's and parts of them."""
    photos = _files(data, "photos")[::2]
    views = [Picture(f"strecha/{view.name}") for view in load_views(data / "strecha")]
    others = [*photos, *views, *_cut_out(data, views)]
    rng = np.random.default_rng(0)
    drawn = {(int(i), int(j)) for i, j in rng.integers((0, 0), (len(photos), len(others)), (_SAMPLED, 2)) if i < j}
    rows = ((photos[i], others[j], False, photos[i].id, others[j].file) for i, j in sorted(drawn))
    return _pairset("photos", others, rows)


def _framed(data: Path, kinds: Sequence[str]) -> PairSet:
    """Return pairs of unrelated photographs that wear the same, twelve photographs a kind."""
    photos = _files(data, "photos")[::5]
    groups = [[replace(p, overlay=kind) for p in photos[k * 12 : k * 12 + 12]] for k, kind in enumerate(kinds)]
    rows = [(a, b, False, a.file, b.file) for group in groups for a, b in itertools.combinations(group, 2)]
    return replace(_pairset("photos framed", itertools.chain(*groups), rows), weight=_RARE)


def _some(labels: Bools, positives: int, negatives: int) -> list[int]:
    """Return the rows of so many pairs of either label, drawn by chance."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(labels), np.flatnonzero(~labels)]
    drawn = [
        rng.choice(r, min(n, len(r)), replace=False) for r, n in zip(rows, (positives, negatives), strict=True)
    ]
    return np.sort(np.concatenate(drawn)).astype(int).tolist()


def thumbnails(pairs: PairSet, rows: Sequence[int]) -> PairSet:
    """Return some pairs of a set, the first photograph of each shrunk to 100 px."""
    return _changed(pairs, rows, "thumbnails", [(lambda p: replace(p, longest=_THUMBNAIL), lambda p: p)])


def wearing(pairs: PairSet, rows: Sequence[int], kinds: Sequence[str]) -> PairSet:
    """Return some pairs of a set, both photographs of each with one overlay, the kinds in turn."""

    def worn(kind: str) -> Callable[[Picture], Picture]:
        return lambda picture: replace(picture, overlay=kind)

    return _changed(pairs, rows, "framed", [(worn(kind), worn(kind)) for kind in kinds])


def _changed(
    pairs: PairSet,
    rows: Sequence[int],
    what: str,
    changes: Sequence[tuple[Callable[[Picture], Picture], Callable[[Picture], Picture]]],
) -> PairSet:
    found, used = [], []
    for row, (first, second) in zip(rows, itertools.cycle(changes)):
        a, b = (pairs.pictures[name] for name in pairs.pairs[row])
        a, b = first(a), second(b)
        used += [a, b]
        found.append((a, b, bool(pairs.labels[row]), *pairs.places[row]))
    return _pairset(f"{pairs.name} {what}", used, found)


# -------------------------------------------------------------------------------------------------- landmarks


def part_of(folder: str) -> Part:
    """Say what the photographs of a folder of `landmarks/` are for: 70 % fit, 15 % choose, 15 % held out."""
    number = int(hashlib.sha256(folder.encode()).hexdigest(), 16) % 100
    return "fit" if number < 70 else "choose" if number < 85 else "held out"


def landmark_folders(data: Path, part: Part) -> list[Path]:
    """Return the folders of `landmarks/` that are for this."""
    return sorted(path for path in (data / "landmarks").iterdir() if path.is_dir() and part_of(path.name) == part)


def landmark_part(evidence: Evidence, part: Part, *, indirect: bool = False) -> PairSet:
    """Return the pairs of a part of `landmarks/`, labelled by geometry.

    Of one place are pairs of one folder that `linked` joins, directly or, if `indirect`, also through a third
    photograph; of different places those of different folders, at most 60,000 drawn by chance, but for folders
    that seem to show one place (`across`). Copies of one photograph are left out.
    """
    of: dict[str, list[Picture]] = {}
    for folder in (path.name for path in landmark_folders(evidence.data, part)):
        files = _files(evidence.data, f"landmarks/{folder}")
        of[folder] = files[:: max(1, len(files) // 18)][:_A_FOLDER]
    pictures = {picture.id: picture for files in of.values() for picture in files}
    evidence.pictures.update(pictures)
    name = f"landmarks {part}"
    home = {picture.id: folder for folder, files in of.items() for picture in files}
    between = judged(evidence, _between(name, pictures, home))
    alike, marked = across(between)
    inside = [pair for files in of.values() for pair in itertools.combinations([p.id for p in files], 2)]
    direct, joined = linked(inside, evidence.verified(name, inside, fine=True), marked)
    same = joined if indirect else direct
    copy = evidence.copies(name, inside) > _COPY
    right = [pair for pair, yes, no in zip(inside, same, copy, strict=True) if yes and not no]
    every = _between(name, pictures, home)
    wrong = [pair for pair, place in zip(every.pairs, every.places, strict=True) if place not in alike]
    pairs = [*right, *wrong]
    labels = np.arange(len(pairs)) < len(right)
    places = [(home[a], home[b]) for a, b in pairs]
    return PairSet(f"{name}, all" if indirect else name, pictures, pairs, labels, places)


def _between(name: str, pictures: dict[str, Picture], home: Mapping[str, str]) -> PairSet:
    """Return pairs of pictures of different folders, drawn by chance."""
    names = list(home)
    every = [(i, j) for i, j in itertools.combinations(range(len(names)), 2) if home[names[i]] != home[names[j]]]
    drawn = np.random.default_rng(0).choice(len(every), min(_SAMPLED, len(every)), replace=False)
    pairs = [(names[every[k][0]], names[every[k][1]]) for k in np.sort(drawn)]
    return PairSet(name, pictures, pairs, np.zeros(len(pairs), bool), [(home[a], home[b]) for a, b in pairs])


def across(between: Judged) -> tuple[set[Names], set[str]]:
    """Return what fine evidence says of pictures of different folders.

    Returns
    -------
    alike : set of (folder, folder)
        That show one place: some pair of theirs has more than overlays ever gave. Nothing is known of the others.
    marked : set of str
        Pictures that agree with one of another folder nevertheless: they wear the mark of an agency, and so their
        agreement with others of their own folder says little.
    """
    found = list(zip(between.pairs, between.places, between.verifications, strict=True))
    alike = {place for _, place, v in found if reaches(v, _CERTAIN)}
    agreeing = [pair for pair, place, v in found if place not in alike and reaches(v, _SURE)]
    return alike, {name for pair in agreeing for name in pair}


def linked(
    pairs: Sequence[Names], found: Sequence[Verification], marked: Collection[str] = ()
) -> tuple[Bools, Bools]:
    """Tell which pairs show one place beyond doubt, (P,), and which do so or through a third picture, (P,)."""
    direct = []
    near: dict[str, set[str]] = {}
    for (a, b), v in zip(pairs, found, strict=True):
        least = _CERTAIN if a in marked and b in marked else _SURE
        direct.append(reaches(v, least) or (least is _SURE and v.inliers >= _SURE_INLIERS and reaches(v, _CHANCE)))
        if direct[-1]:
            near.setdefault(a, {a}).add(b)
            near.setdefault(b, {b}).add(a)
    joined = [not near.get(a, set()).isdisjoint(near.get(b, set())) for a, b in pairs]
    return np.array(direct, bool), np.array(joined, bool)


def reaches(found: Verification, least: tuple[int, int]) -> bool:
    """Tell whether so many fine matches agree on one epipolar geometry, or so many on one plane."""
    return found.fine is not None and (found.fine.epipolar >= least[0] or found.fine.planar >= least[1])
