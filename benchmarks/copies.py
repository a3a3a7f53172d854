"""Copies: recall at zero false pairs of `find_copies`, of perceptual hashes and of the signature alone, by edit.

    python -m benchmarks.copies --edits 1000

Photographs of ``distractors/`` are edited as ``benchmarks/copy_edits.py`` says. They lie among one and a half
times as many others as there are edits; half of these are of a place that others show, too (Holidays, UKBench),
which is no copy. A false pair is one of photographs of different scenes; the threshold of each method is the
highest score of any. Those of one scene, some of them taken within seconds from one place or zoomed, are neither
right nor false: how many of them are taken for copies is printed. ``--sources photos`` is for choosing options.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial.distance import cdist

from benchmarks.common import data_folder, options_parser, print_table, timed, write_json
from benchmarks.copy_edits import EDITS, HOSTED, Box, edited
from delf_engine.copies import Copies, find_copies
from delf_engine.copies.pixels import read_grey
from delf_engine.copies.signature import distances, grid_of, levels
from delf_engine.images import load_image

Scores = npt.NDArray[np.float64]

_OTHERS = 1.5  # photographs for each edit
_PEERS = ("PHash", "DHash", "WHash", "AHash")  # of imagededup
_LEAST_IOU = 0.8


class Edit(NamedTuple):
    """An edit of a photograph: files, and where each shows the other, if not everywhere."""

    path: str
    source: str
    kind: str
    in_source: Box | None
    in_edit: Box | None


def make_edits(sources: list[Path], hosts: list[Path], count: int, out: Path) -> list[Edit]:
    """Write edits of photographs, of all kinds in turn."""
    edits, kinds, unused = [], list(EDITS), iter(hosts)  # photographs with one host would be a pair, too
    for number in range(count):
        rng, kind = np.random.default_rng(number), kinds[number % len(kinds)]
        source, host = sources[number % len(sources)], next(unused) if kind in HOSTED else sources[0]
        (pixels, in_source, in_edit), quality = edited(kind, load_image(source), load_image(host), rng)
        path = out / f"{number:05}.jpg"
        Image.fromarray(pixels).save(path, quality=quality)
        edits.append(Edit(str(path), str(source), kind, in_source, in_edit))
    return edits


def chosen(data: Path, sources: str, count: int) -> tuple[list[Path], list[Path], list[Path]]:
    """Return photographs to edit, others that lie beside them, and hosts, which do not."""
    named = {name: sorted((data / name).glob("*.jpg")) for name in ("holidays_dev", "ukbench_dev", "photos")}
    edit = sorted((data / sources).glob("*.jpg"))
    singles = named["photos"][::-1]  # those to edit are the first where they come from the same folder
    others = round(_OTHERS * count)
    of = edit[: max(1, min(len(edit) // 2, count // 2))]
    hard = named["holidays_dev"][: others // 4] + named["ukbench_dev"][: others // 4]
    left = max(0, others - len(of) - len(hard))
    return of, hard + singles[:left], singles[left : left + count // 4 + len(HOSTED)]


def hash_scores(paths: list[str], method: str) -> Scores:
    """Return the similarity of every two photographs by a perceptual hash of imagededup, 0 to 1."""
    from imagededup import methods

    hasher = getattr(methods, method)(verbose=False)
    bits = np.array([[int(c) for c in f"{int(hasher.encode_image(path), 16):064b}"] for path in paths], np.float32)
    return np.asarray(1 - cdist(bits, bits, "hamming"), np.float64)


def signature_scores(paths: list[str]) -> Scores:
    """Return how alike the signatures of every two photographs are, 0 to 1."""
    signatures = levels(np.array([grid_of(read_grey(path).inside) for path in paths]))
    return np.asarray(1 - distances(signatures, signatures), np.float64)


def found_scores(paths: list[str], found: Copies) -> Scores:
    """Return the scores of pairs that were found, also by way of the photograph that stands for both; else 0."""
    place = {path: number for number, path in enumerate(paths)}
    scores = np.zeros((len(paths), len(paths)))
    near = defaultdict(list)
    for copy in found.copies:
        a, b = place[copy.a], place[copy.b]
        scores[a, b] = scores[b, a] = copy.score
        if copy.kind in ("exact", "copy"):
            near[a].append(b)
            near[b].append(a)
    for middle, ends in near.items():
        for end in ends:
            for other in np.flatnonzero(scores[middle]):
                if other != end and not scores[end, other]:
                    scores[end, other] = scores[other, end] = min(scores[middle, end], scores[middle, other])
    return scores


def recall(paths: list[str], edits: list[Edit], scores: Scores) -> dict[str, Any]:
    """Return the recall of each kind at the lowest threshold without a false pair, and that threshold."""
    origin = {path: path for path in paths} | {edit.path: edit.source for edit in edits}
    group = np.unique([scene(origin[path]) for path in paths], return_inverse=True)[1]
    false = group[:, None] != group[None]
    worst = float(scores[false].max(initial=0))
    place = {path: number for number, path in enumerate(paths)}
    hits = defaultdict(list)
    for edit in edits:
        hits[edit.kind].append(float(scores[place[edit.path], place[edit.source]]) > worst)
    return {"threshold": worst, **{kind: float(np.mean(own)) for kind, own in hits.items()}}


def scene(path: str) -> str:
    """Return what a photograph shows, by the names of Holidays and UKBench; all others show something else."""
    folder, stem = Path(path).parent.name, Path(path).stem
    if folder == "holidays_dev":
        return f"{folder} {stem[:4]}"
    return f"{folder} {int(stem[-5:]) // 4}" if folder == "ukbench_dev" else path


def boxes(edits: list[Edit], found: Copies) -> dict[str, list[float]]:
    """Return for each kind with a box its intersection over union with the one that was found."""
    pairs = {frozenset((copy.a, copy.b)): copy for copy in found.copies}
    out = defaultdict(list)
    for edit in edits:
        copy = pairs.get(frozenset((edit.path, edit.source)))
        truth, where = (edit.in_source, edit.source) if edit.in_source else (edit.in_edit, edit.path)
        if truth is not None and copy is not None:
            out[edit.kind].append(iou(truth, copy.box_a if copy.a == where else copy.box_b))
    return out


def iou(a: Box, b: Box | None) -> float:
    """Return the intersection over union of two boxes, x0, y0, x1, y1."""
    if b is None:
        return 0.0
    w, h = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return w * h / (sum(areas) - w * h)


def measured(edits: list[Edit], photographs: list[Path], folder: Path) -> dict[str, Any]:
    """Return the recall of every method, and the boxes and false pairs of ours; features are kept in a folder."""
    paths = [*(edit.path for edit in edits), *map(str, photographs)]
    methods: dict[str, Callable[[], Scores]] = {
        **{f"imagededup {name}": partial(hash_scores, paths, name) for name in _PEERS},
        "signature alone": partial(signature_scores, paths),
    }
    rows = []
    for name, score in methods.items():
        seconds, scores = timed(score)
        rows.append({"method": name, **recall(paths, edits, scores), "seconds": seconds})
    # Features are those of these very edits.
    made = hashlib.sha256(b"".join(Path(edit.path).read_bytes() for edit in edits)).hexdigest()[:12]
    kept = (folder / made).exists()
    seconds, found = timed(partial(find_copies, paths, engine=folder / made))
    own = recall(paths, edits, found_scores(paths, found))
    rows.append({"method": "find_copies", **own, "seconds": None if kept else seconds})
    origin = {edit.path: edit.source for edit in edits}
    others = [copy for copy in found.copies if origin.get(copy.a, copy.a) != origin.get(copy.b, copy.b)]
    one_scene = [scene(origin.get(copy.a, copy.a)) == scene(origin.get(copy.b, copy.b)) for copy in others]
    return {
        "edits": len(edits),
        "others": len(photographs),
        "methods": rows,
        "boxes": boxes(edits, found),
        "false_pairs": [str(copy) for copy, same in zip(others, one_scene, strict=True) if not same],
        "of_one_scene": [str(copy) for copy, same in zip(others, one_scene, strict=True) if same],
    }


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__, "out/copies.json", data=True)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--sources", default="distractors", help="folder of the photographs that are edited")
    args = parser.parse_args()
    sources, others, hosts = chosen(data_folder(args.data), args.sources, args.edits)
    folder = args.cache.absolute() / f"copies-{args.sources}-{args.edits}"
    (folder / "edits").mkdir(parents=True, exist_ok=True)
    edits = make_edits(sources, hosts, args.edits, folder / "edits")
    result = measured(edits, [*sources, *others], folder)
    rows = {str(row["method"]): row for row in result["methods"]}
    print_table(
        f"recall at zero false pairs, {result['edits']} edits among {result['others']} others",
        ["edit", *rows],
        [
            *(
                [kind, *(f"{row[kind]:.1%}" for row in rows.values())]
                for kind in EDITS
                if kind in rows["find_copies"]
            ),
            ["seconds", *(f"{row['seconds']:.0f}" if row["seconds"] else "-" for row in rows.values())],
        ],
    )
    print_table(
        "boxes found, of parts",
        ["edit", "found", "median IoU", f"IoU at least {_LEAST_IOU}"],
        [
            [kind, str(len(own)), f"{np.median(own):.3f}", f"{np.mean(np.array(own) >= _LEAST_IOU):.1%}"]
            for kind in EDITS
            if (own := result["boxes"].get(kind))
        ],
    )
    counts = [str(len(result[key])) for key in ("false_pairs", "of_one_scene")]
    print_table("other pairs taken for copies", ["different scenes", "one scene"], [counts])
    write_json(args.out, result)


if __name__ == "__main__":
    main()
