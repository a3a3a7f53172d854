"""Can the answer be trusted? Same place or not, on all sets of pairs, with frames and overlays, turned and small.

    python -m benchmarks.verification.sameness --data DATA [--models delf-r18 delf-r50] [--profiles default fast]
        [--tables sets overlays nothing small turned]

Tables, for each checkpoint and profile:

- sets: pairs of one place accepted at one false acceptance in 100, 1,000 and 10,000 by inliers alone and by the
  probability, the difference with its 95 % interval from a bootstrap over places, and expected calibration error;
- overlays: of 21 pairs of unrelated photographs in one frame how many are "same", and how many pairs of one place,
  "same" without the frame, are so in it;
- nothing: blank, gradient and noise images;
- small: one photograph of each pair shrunk to 100 px;
- turned: one photograph of each pair turned, asked through `delf_engine.verify`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

import delf_engine
from benchmarks.common import data_folder, options_parser, print_markdown, write_json
from benchmarks.systems import System, model_system
from benchmarks.verification.acceptance import RATES, Scored, accepted, difference
from benchmarks.verification.calibration import figures
from benchmarks.verification.evidence import Evidence, Picture
from benchmarks.verification.overlays import OVERLAYS
from benchmarks.verification.sameness_sets import CHECKED, PairSet, checked_sets, judged, thumbnails
from delf_engine import Verification
from delf_engine.engine.pairs import calibration_of
from delf_engine.errors import DataError
from delf_engine.images import find_images
from delf_engine.model import read_checkpoint_info
from delf_engine.verification.calibration import Calibration

Row = dict[str, Any]

_SIZES = (320, 576, 1024)
_UNRELATED = 7
_FRAMED = 30  # pairs of one place in each overlay
_THUMBNAILS = 3000  # pairs of different places
_TURNED = 20  # pairs of one place, in each turn


def main() -> None:
    """Print the tables of each checkpoint and profile, write JSON."""
    parser = options_parser(__doc__, "out/sameness.json", data=True)
    parser.add_argument("--models", nargs="+", default=["delf-r18", "delf-r50"])
    parser.add_argument("--profiles", nargs="+", default=[None], help="default: the checkpoint's own")
    parser.add_argument("--calibration", type=Path, help="default: the checkpoint's own")
    parser.add_argument("--tables", nargs="+", choices=list(_TABLES), default=list(_TABLES))
    parser.add_argument("--sets", nargs="+", choices=CHECKED, default=CHECKED)
    args = parser.parse_args()
    data, results = data_folder(args.data), []
    for model, profile in itertools.product(args.models, args.profiles):
        system = model_system(model, profile=profile)
        evidence = Evidence(system, data, args.cache)
        calibration = _calibration(model, system, args.calibration)
        result: Row = {"model": model, "profile": system.profile.name, "accept": _accepts(calibration)}
        for table in args.tables:
            rows, columns = _TABLES[table](evidence, calibration, args.sets)
            cells = [[cell.format_map(row) for cell in columns.values()] for row in rows]
            print_markdown(f"{model}, profile {system.profile.name}: {table}", list(columns), cells)
            result[table] = rows
        results.append(result)
    write_json(args.out, {"results": results})


def _calibration(model: str, system: System, path: Path | None) -> Calibration:
    identity = read_checkpoint_info(model).identity
    found = Calibration.load(path) if path else calibration_of(model, system.profile, identity)
    if found is None or not found.holds_for(profile=system.profile, checkpoint=identity):
        raise DataError(f"{model}, profile {system.profile.name}: no calibration holds for it")
    return found


def _accepts(calibration: Calibration) -> dict[str, float]:
    curves = {"coarse": calibration.coarse, "fine": calibration.fine}
    return {name: curve.accept for name, curve in curves.items() if curve is not None}


# ------------------------------------------------------------------------------------------------------- sets

_IN = [f"1 in {round(1 / rate):,}" for rate in RATES]
_SET_COLUMNS = {
    "set": "{set}",
    "pairs": "{right:,} / {wrong:,}",
    **{f"inliers, {name}": f"{{inliers[{i}]:.1f}}" for i, name in enumerate(_IN)},
    **{f"probability, {name}": f"{{probability[{i}]:.1f}}" for i, name in enumerate(_IN)},
    "difference": "{difference[0]:+.1f} [{difference[1]:+.1f}, {difference[2]:+.1f}]",
    "ECE": "{ece:.3f}",
    '"same", %': "{same:.1f}",
    "falsely": "{false:.1f} = {false_rate:.2f} in 10,000",
}


def sets_table(
    evidence: Evidence, calibration: Calibration, names: Sequence[str]
) -> tuple[list[Row], Mapping[str, str]]:
    """Return the figures of each set, acceptance in per cent."""
    rows = []
    for pairs in checked_sets(evidence, names):
        fine = judged(evidence, pairs)
        row: Row = {"set": pairs.name, **figures(calibration, fine)}
        nothing = [float("nan")] * 3
        row |= {"inliers": nothing, "probability": nothing, "difference": nothing}
        if pairs.labels.any():
            inliers = np.array(
                [v.inliers for v in evidence.verified(pairs.name.split(",")[0], pairs.pairs)], np.float64
            )
            plain = Scored(inliers, pairs.labels, np.ones(len(inliers)), pairs.places)
            sure = Scored(calibration.probabilities(fine.verifications), fine.labels, fine.weights, fine.places)
            row["inliers"] = [100 * accepted(plain, rate) for rate in RATES]
            row["probability"] = [100 * accepted(sure, rate) for rate in RATES]
            drawn = 100 * difference(sure, plain, RATES[-1])
            row["difference"] = [
                row["probability"][-1] - row["inliers"][-1],
                *np.quantile(drawn, (0.025, 0.975)).tolist(),
            ]
        rows.append(row)
    return rows, _SET_COLUMNS


# --------------------------------------------------------------------------------------------------- overlays


def overlays_table(
    evidence: Evidence, calibration: Calibration, _: Sequence[str]
) -> tuple[list[Row], Mapping[str, str]]:
    """Return how many unrelated pairs in one overlay are "same", by size, and how many of one place still are."""
    files = find_images([evidence.data / "distractors"])
    photos = [Path(path).relative_to(evidence.data).as_posix() for path in files[30 :: len(files) // _UNRELATED]]
    bare = _bare(evidence, calibration)
    rows = []
    for overlay in (None, *OVERLAYS):
        row: Row = {"overlay": overlay or "(none)"}
        for size in _SIZES:
            worn = [Picture(photo, longest=size, overlay=overlay) for photo in photos[:_UNRELATED]]
            found = _asked(evidence, calibration, f"overlays {size}", list(itertools.combinations(worn, 2)))
            row[f"wrong {size}"], row["of"] = sum(v.same for v in found), len(found)
        pairs = [(replace(a, overlay=overlay), replace(b, overlay=overlay)) for a, b in bare]
        found = _asked(evidence, calibration, "overlays one place", pairs)
        one = [(replace(a, overlay=overlay), b) for a, b in bare]
        half = _asked(evidence, calibration, "overlays one place, one framed", one)
        row |= {"both": _share(found), "one": _share(half), "pairs": len(found)}
        rows.append(row)
    columns = {
        "overlay": "{overlay}",
        **{f'unrelated, {size} px: "same"': f"{{wrong {size}}} of {{of}}" for size in _SIZES},
        "one place, both in it: still, %": "{both:.1f} of {pairs}",
        "one of them": "{one:.1f}",
    }
    return rows, columns


def _bare(evidence: Evidence, calibration: Calibration) -> list[tuple[Picture, Picture]]:
    """Return pairs of one place that are "same" as they are."""
    (pairs,) = checked_sets(evidence, ["holidays_dev"])
    right = _same_pairs(pairs)
    found = _asked(evidence, calibration, "holidays_dev", right)
    yes = [pair for pair, v in zip(right, found, strict=True) if v.same]
    return yes[:: max(1, len(yes) // _FRAMED)][:_FRAMED]


def _same_pairs(pairs: PairSet) -> list[tuple[Picture, Picture]]:
    rows = itertools.compress(pairs.pairs, pairs.labels)
    return [(pairs.pictures[a], pairs.pictures[b]) for a, b in rows]


def _asked(
    evidence: Evidence, calibration: Calibration, what: str, pairs: Sequence[tuple[Picture, Picture]]
) -> list[Verification]:
    """Return what is said of pairs of pictures, with fine evidence."""
    evidence.pictures.update({picture.id: picture for pair in pairs for picture in pair})
    found = evidence.verified(what, [(a.id, b.id) for a, b in pairs], fine=True)
    return [calibration.judged(v) for v in found]


def _share(found: Sequence[Verification]) -> float:
    return 100 * float(np.mean([v.same for v in found])) if found else float("nan")


# ------------------------------------------------------------------------------------ nothing, small, turned


def nothing_table(
    evidence: Evidence, calibration: Calibration, _: Sequence[str]
) -> tuple[list[Row], Mapping[str, str]]:
    """Return how many pairs of pictures without content are "same", among each other and with photographs."""
    kinds = {"blank": range(0, 256, 51), "gradient": range(6), "noise": range(6)}
    empty = {kind: [Picture(f"made/{kind} {i}") for i in numbers] for kind, numbers in kinds.items()}
    photos = [
        Picture(Path(p).relative_to(evidence.data).as_posix())
        for p in find_images([evidence.data / "distractors"])
    ]
    rows = []
    for kind, pictures in empty.items():
        others = [p for other, some in empty.items() if other != kind for p in some]
        asked = [*itertools.combinations(pictures, 2), *itertools.product(pictures, [*others, *photos[::60]])]
        found = _asked(evidence, calibration, "nothing", asked)
        most = max(v.inliers for v in found)
        rows.append({"kind": kind, "pairs": len(found), "same": sum(v.same for v in found), "most": most})
    columns = {"": "{kind}", "pairs": "{pairs}", '"same"': "{same}", "most inliers": "{most}"}
    return rows, columns


def small_table(
    evidence: Evidence, calibration: Calibration, _: Sequence[str]
) -> tuple[list[Row], Mapping[str, str]]:
    """Return what is said of the pairs of `holidays_dev` if one photograph has 100 px, and if none has."""
    (pairs,) = checked_sets(evidence, ["holidays_dev"])
    wrong = np.random.default_rng(0).choice(np.flatnonzero(~pairs.labels), _THUMBNAILS, replace=False)
    small = thumbnails(pairs, [*np.flatnonzero(pairs.labels), *np.sort(wrong)])
    sides = {"as they are": judged(evidence, pairs), "one of 100 px": judged(evidence, small)}
    rows: list[Row] = [{"": name, **figures(calibration, side)} for name, side in sides.items()]
    for row in rows:
        row["kept"] = 100 * row["same"] / rows[0]["same"]
    names = ("", "pairs", '"same", %', "falsely", "ECE")
    columns = {name: _SET_COLUMNS.get(name, "{}") for name in names[1:]}
    return [{"what": row.pop(""), **row} for row in rows], {
        "": "{what}",
        **columns,
        "of as they are, %": "{kept:.1f}",
    }


def turned_table(
    evidence: Evidence, calibration: Calibration, _: Sequence[str]
) -> tuple[list[Row], Mapping[str, str]]:
    """Return how many pairs of one place that are "same" upright are so if one photograph is turned."""
    bare = _bare(evidence, calibration)[:_TURNED]
    extractor = evidence.system.extract
    assert isinstance(extractor, delf_engine.Extractor)
    rows = []
    for turns in range(4):
        said = [
            delf_engine.verify(
                replace(a, turns=turns).source(evidence.data),
                b.source(evidence.data),
                extractor=extractor,
                profile=evidence.system.profile.name,
                calibration=calibration,
            )
            for a, b in track(bare, f"turned by {90 * turns}", console=Console(stderr=True))
        ]
        rows.append({"turned": 90 * turns, "same": _share(said), "pairs": len(said)})
    return rows, {"turned by": "{turned}", '"same", %': "{same:.1f}", "pairs": "{pairs}"}


_TABLES: dict[str, Callable[[Evidence, Calibration, Sequence[str]], tuple[list[Row], Mapping[str, str]]]] = {
    "sets": sets_table,
    "overlays": overlays_table,
    "nothing": nothing_table,
    "small": small_table,
    "turned": turned_table,
}


if __name__ == "__main__":
    main()
