"""Is the geometry right, and not only the answer? Estimated transforms against planes and cameras that are known.

    python -m benchmarks.verification.geometry [--model delf-r18] [--data DIR]

Homographies (`verification/homography.py`, 6 pairs). Corner error: the distance between where the estimated and
where the true map take the four corners of the first image, averaged over them, in pixels of the second image and
in % of its width; an affine map is measured alike. Right inliers: the share of inliers whose match lies within 3 %
of the second image's width of its true place; beside it that share of the tentative matches.

Strecha (`verification/strecha.py`): pairs of one scene whose viewing directions differ by less than 40 degrees.
Each pair gets the median epipolar distance of its inliers under the true cameras: the distance of a point from the
line that the other one fixes, averaged over both images, in pixels. The table has medians over the pairs; the row
"tentative matches" has those of the default before geometry.

An affine map or a homography of a scene that is not a plane is right for some of it at most: its inliers are held
to 24 pixels of it. Constants are those of the shipped profiles where a row names no other.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import data_folder, options_parser, print_markdown, write_json
from benchmarks.systems import model_system
from benchmarks.verification.homography import PlanarPair, Size, homography_pairs, project
from benchmarks.verification.strecha import (
    Camera,
    epipolar_distances,
    fundamental_between,
    labelled_pairs,
    load_cameras,
    load_views,
)
from delf_engine import LocalFeatures, load_profile, verify_features
from delf_engine.config import VerificationConfig
from delf_engine.matching import match_descriptors

Float64 = npt.NDArray[np.float64]
Row = dict[str, Any]

_RIGHT_SHARE = 0.03  # of the image's width
_LARGEST_ANGLE = 40.0
_FUNDAMENTAL_PX = 8.0
_STRICT_PX = 8.0  # of a homography that is held to more than the profile's
#: The row of the matches that no geometry has judged.
TENTATIVE = "tentative matches"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both data sets, print the tables, write JSON."""
    args = _arguments(argv)
    data = data_folder(args.data)
    system = model_system(args.model)

    def extracted(part: str, names: Sequence[str]) -> dict[str, LocalFeatures]:
        return system.features_of(part, {name: data / part / name for name in names}, args.cache)

    planes = homography_pairs(data / "homography")
    features = extracted("homography", list(dict.fromkeys(n for p in planes for n in (p.first, p.second))))
    planar = {
        name: [plane_row(features[p.first], features[p.second], p, config) for p in planes]
        for name, config in plane_ways().items()
    }
    views = load_views(data / "strecha")
    features = extracted("strecha", [view.name for view in views])
    pairs = [
        (views[p.first].name, views[p.second].name)
        for p in labelled_pairs(views)
        if p.kind == "same" and p.angle < _LARGEST_ANGLE
    ]
    epipolar = epipolar_rows(features, load_cameras(data / "strecha"), pairs, scene_ways())
    _print_planes(planes, planar, args.model)
    _print_epipolar(epipolar, args.model)
    result = {
        "model": args.model,
        "identity": system.identity,
        "ways": {name: c.model_dump() for name, c in {**plane_ways(), **scene_ways()}.items()},
        "homography": planar,
        "strecha": epipolar,
    }
    write_json(args.out, result)


def plane_ways() -> dict[str, VerificationConfig]:
    """Return how planes are verified, by name."""
    accurate = load_profile("accurate").verification
    return {
        "default": load_profile().verification,
        "accurate": accurate,
        "magsac": accurate.model_copy(update={"estimator": "magsac"}),
        f"accurate, {_STRICT_PX:g} px": accurate.model_copy(update={"residual_px": _STRICT_PX}),
    }


def scene_ways() -> dict[str, VerificationConfig]:
    """Return how scenes are verified, by name."""
    found = plane_ways()
    changes = {"model": "fundamental", "residual_px": _FUNDAMENTAL_PX}
    return {
        "default": found["default"],
        "accurate": found["accurate"],
        f"fundamental, {_FUNDAMENTAL_PX:g} px": found["accurate"].model_copy(update=changes),
    }


def plane_row(a: LocalFeatures, b: LocalFeatures, pair: PlanarPair, config: VerificationConfig) -> Row:
    """Return the figures of one pair: None where there is no transform or no inlier to judge."""
    found = verify_features(a, b, config=config)
    row: Row = {"pair": f"{pair.first} - {pair.second}", "inliers": found.inliers, "putative": found.putative}
    error = None if found.transform is None else corner_error(found.transform, pair.H, a.image_size, b.image_size)
    tentative = _tentative(a, b, config)
    right = [
        right_inliers(a.keypoints[rows[:, 0]], b.keypoints[rows[:, 1]], pair.H, a.image_size, b.image_size)
        for rows in (found.matches, tentative)
    ]
    share = None if error is None else error / b.image_size[0]
    row |= {"corner_error_px": error, "corner_error_of_width": share}
    return row | {"right_inliers": right[0], "right_tentative": right[1]}


def _tentative(a: LocalFeatures, b: LocalFeatures, config: VerificationConfig) -> npt.NDArray[np.int32]:
    """Return the matches that no geometry has judged, (M, 2)."""
    return match_descriptors(
        a.descriptors,
        b.descriptors,
        mutual=config.mutual,
        ratio=config.ratio,
        max_distance=config.max_distance,
        precision=config.precision,
    ).pairs


def corner_error(found: Float64, truth: Float64, size_a: Size, size_b: Size) -> float:
    """Return the mean distance between where two maps take the corners of image A, in pixels of B.

    Parameters
    ----------
    found, truth : (3, 3) float64
        From pixels of A to pixels of B.
    size_a, size_b : (width, height)
    """
    right, low = size_a[0] - 1, size_a[1] - 1
    corners = [[0, 0], [right, 0], [0, low], [right, low]]
    ends = [project(H, corners, size_a, size_b)[0] for H in (found, truth)]
    return float(np.linalg.norm(ends[0] - ends[1], axis=1).mean())


def right_inliers(a: npt.ArrayLike, b: npt.ArrayLike, truth: Float64, size_a: Size, size_b: Size) -> float | None:
    """Return the share of matches within 3 % of the width of B of their true place; None without a match.

    Parameters
    ----------
    a, b : (N, 2) float
        Matched points.
    truth : (3, 3) float64
    size_a, size_b : (width, height)
    """
    at = np.asarray(b, np.float64)
    if not len(at):
        return None
    errors = np.linalg.norm(project(truth, a, size_a, size_b)[0] - at, axis=1)
    return float((errors <= _RIGHT_SHARE * size_b[0]).mean())


def epipolar_rows(
    features: Mapping[str, LocalFeatures],
    cameras: Mapping[str, Camera],
    pairs: Sequence[tuple[str, str]],
    configs: Mapping[str, VerificationConfig],
) -> dict[str, Row]:
    """Return by name the medians over pairs, and for each pair the median distance of its inliers (None: none)."""
    default = load_profile().verification
    out: dict[str, Row] = {name: {"pairs": {}, "inliers": {}} for name in (TENTATIVE, *configs)}
    for first, second in pairs:
        a, b = features[first], features[second]
        F = fundamental_between(cameras[first], cameras[second])
        matches = {TENTATIVE: _tentative(a, b, default)}
        matches |= {name: verify_features(a, b, config=config).matches for name, config in configs.items()}
        for name, rows in matches.items():
            distances = epipolar_distances(F, a.keypoints[rows[:, 0]], b.keypoints[rows[:, 1]])
            out[name]["pairs"][f"{first} - {second}"] = float(np.median(distances)) if len(rows) else None
            out[name]["inliers"][f"{first} - {second}"] = len(rows)
    for row in out.values():
        medians = [value for value in row["pairs"].values() if value is not None]
        row["median_px"] = float(np.median(medians)) if medians else None
        row["ninth_decile_px"] = float(np.quantile(medians, 0.9)) if medians else None
        row["median_inliers"] = float(np.median(list(row["inliers"].values()))) if pairs else None
        row["judged"] = len(medians)
    return out


def _print_planes(planes: Sequence[PlanarPair], rows: Mapping[str, Sequence[Row]], model: str) -> None:
    columns = ["pair", "verified by", "corner error, px", "% of width", "right inliers", "tentative", "inliers"]
    table = [
        [f"{pair.first} - {Path(pair.second).name}", name, *_plane_cells(found[i])]
        for i, pair in enumerate(planes)
        for name, found in rows.items()
    ]
    for what, middle in (("mean", np.mean), ("median", np.median)):
        for name, found in rows.items():
            whole = [row for row in found if row["corner_error_px"] is not None]
            keys = [key for key in (whole[0] if whole else ()) if key != "pair"]
            cells = _plane_cells({key: float(middle([row[key] for row in whole])) for key in keys})
            table.append([f"{what} of {len(whole)}", name, *cells])
    print_markdown(
        f"Planes ({model}); right: within 3 % of the width, of inliers and of tentative", columns, table
    )


def _plane_cells(row: Mapping[str, Any]) -> list[str]:
    if row.get("corner_error_px") is None:
        return ["no transform", *[""] * 4]
    shares = [f"{row['right_inliers']:.2f}", f"{row['right_tentative']:.2f}", f"{row['inliers']:.0f}"]
    return [f"{row['corner_error_px']:.1f}", f"{100 * row['corner_error_of_width']:.1f}", *shares]


def _print_epipolar(rows: Mapping[str, Row], model: str) -> None:
    columns = ["matches", "median epipolar distance, px", "of 90 % of pairs below", "inliers, median", "pairs"]
    table = []
    for name, row in rows.items():
        ends = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("median_px", "ninth_decile_px")]
        inliers = "" if row["median_inliers"] is None else f"{row['median_inliers']:.0f}"
        table.append([name, *ends, inliers, f"{row['judged']} of {len(row['pairs'])}"])
    print_markdown(f"Strecha's scenes, views below {_LARGEST_ANGLE:g} degrees apart ({model})", columns, table)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/verification_geometry.json", data=True, model=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
