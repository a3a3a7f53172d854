"""Query expansion by verified images: what they show of the place, seen from where the query was taken.

Features of images that were verified are carried into the query's frame by the transform that verified them
(Chum, Philbin, Sivic, Isard and Zisserman, Total Recall, ICCV 2007), and only where they fall into what the query
shows; features that say the same of the same place are one (Tolias and Jégou, Visual query expansion with or
without geometry, Pattern Recognition 2014, who join them by visual word).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from delf_engine.config.base import Config, Count
from delf_engine.errors import ConfigError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import FeatureSource, RankedCandidate, reader
from delf_engine.verification import Verification
from delf_engine.verification.geometry import pixel_frame, plausible

Float64 = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]

_PAIRS_AT_ONCE = 1 << 14  # of descriptors


class ExpansionConfig(Config):
    """How a query is joined by the features of the images that were verified with it.

    The defaults were written down before anything was measured with them.

    Attributes
    ----------
    count : int
        Images whose features are taken, at most: those with the most inliers.
    max_features : int
        Features of the expanded query, at most. The query's own come first, the others by attention.
    similarity : float
        Two features at the same place, within the residual of the verification, are one and the same if the cosine
        similarity of their descriptors is at least this.
    """

    count: Count = 10
    max_features: Count = 2000
    similarity: Annotated[float, Field(ge=-1, le=1)] = 0.8


def expand_query(
    query: LocalFeatures,
    hits: Iterable[RankedCandidate],
    features: FeatureSource,
    *,
    config: ExpansionConfig | None = None,
    box: Sequence[float] | None = None,
) -> LocalFeatures:
    """Return the query's features together with those of the images verified with it.

    An image joins if its verification says that it shows the same place. A feature of it is
    added if the transform takes it into the query's image, or into `box`, and does there what a camera can do; its
    scale is multiplied by the local zoom of the transform. Near duplicates of one that is there already are left
    out: those of the query come first, then those of the images in order of their inliers, in each by attention.

    Parameters
    ----------
    query : LocalFeatures
    hits : iterable of RankedCandidate
        The query's ranking by `rerank_shortlist`. The result is the same in any order of it; candidates that were
        not verified are left alone.
    features : store, mapping or function
        Features of each candidate by its id, as they were verified.
    config : ExpansionConfig or None
        None takes the defaults.
    box : x0, y0, x1, y1 or None
        Region of interest in pixels of the query's image, if it has one.

    Returns
    -------
    LocalFeatures
        Of the query's image size; the query's own features, and at most `max_features` in all (of a query that
        has more, its first). The query itself if no image was verified.

    Raises
    ------
    ConfigError
        If images were verified with fundamental matrices, which take a point to a line, or the box is none.
    UnknownIdError
        If there are no features of a verified image.
    MismatchError
        If features of an image are not those that were verified.
    """
    config = ExpansionConfig() if config is None else config
    region = _region(query, box)
    read = reader(features)
    found = _Collected(query, config.similarity)
    for image_id, verification in _chosen(hits, config):
        image = read(image_id)
        if image is None:
            raise UnknownIdError(f"no features of {image_id!r}; give the source that it was verified with")
        _check_same_features(query, image, image_id, verification)
        mapped = _mapped(image, verification, region)
        if mapped is not None:
            frame = pixel_frame(query.image_size, verification.reference_size)
            found.add(mapped, verification.residual_px / float(frame[0, 0]))
    return found.joined(config.max_features)


@dataclass(frozen=True)
class _Mapped:
    """Features of another image in the query's pixels, by attention."""

    points: Float64
    scales: Float64
    scores: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.float32]


class _Collected:
    """The features of a query and what has been added to them."""

    def __init__(self, query: LocalFeatures, similarity: float) -> None:
        self._query = query
        self._similarity = similarity
        self._points = query.keypoints.astype(np.float64)
        self._units = _unit_rows(query.descriptors)
        self._added: list[_Mapped] = []

    def add(self, mapped: _Mapped, radius: float) -> None:
        """Add the features that are no near duplicates of one before them."""
        units = _unit_rows(mapped.descriptors)
        fresh = np.ones(len(units), bool)
        for rows, _ in _near_duplicates(mapped.points, units, self._points, self._units, radius, self._similarity):
            fresh[rows] = False
        fresh = np.flatnonzero(fresh)
        kept = fresh[_thinned(mapped.points[fresh], units[fresh], radius, self._similarity)]
        self._points = np.vstack([self._points, mapped.points[kept]])
        self._units = np.vstack([self._units, units[kept]])
        self._added.append(
            _Mapped(mapped.points[kept], mapped.scales[kept], mapped.scores[kept], mapped.descriptors[kept])
        )

    def joined(self, max_features: int) -> LocalFeatures:
        """Return all as one query: its own features, and the others by attention as far as there is room."""
        own = self._query.top(max_features)
        if not self._added or len(own) == max_features:
            return own
        scores = np.concatenate([each.scores for each in self._added])
        best = np.argsort(-scores, kind="stable")[: max_features - len(own)]
        all_scores = np.concatenate([own.scores, scores[best]])
        order = np.argsort(-all_scores, kind="stable")

        def merged(name: str, of_others: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
            others = np.concatenate(of_others)[best].astype(np.float32)
            return np.asarray(np.concatenate([getattr(own, name), others])[order])

        return replace(
            own,
            keypoints=merged("keypoints", [each.points for each in self._added]),
            scales=merged("scales", [each.scales for each in self._added]),
            scores=all_scores[order],
            descriptors=merged("descriptors", [each.descriptors for each in self._added]),
        )


def _thinned(points: Float64, units: Float64, radius: float, similarity: float) -> npt.NDArray[np.bool_]:
    """Tell which features are no near duplicates of one before them that is kept itself."""
    before: dict[int, list[int]] = {}
    for rows, columns in _near_duplicates(points, units, points, units, radius, similarity):
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if column < row:
                before.setdefault(row, []).append(column)
    kept = np.ones(len(points), bool)
    for row in sorted(before):
        kept[row] = not kept[before[row]].any()
    return kept


def _near_duplicates(
    points: Float64, units: Float64, of_points: Float64, of_units: Float64, radius: float, similarity: float
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Yield all pairs of features that are at the same place and alike, as rows of the first and of the others."""
    from scipy.spatial import KDTree

    near = KDTree(points).sparse_distance_matrix(KDTree(of_points), radius, output_type="ndarray")
    for first in range(0, len(near), _PAIRS_AT_ONCE):
        r, c = (near[name][first : first + _PAIRS_AT_ONCE] for name in ("i", "j"))
        # Row by row, not by BLAS: the same bits with any number of threads.
        alike = np.einsum("nd,nd->n", units[r], of_units[c]) >= similarity
        yield r[alike], c[alike]


def _chosen(hits: Iterable[RankedCandidate], config: ExpansionConfig) -> list[tuple[str, Verification]]:
    """Return the images whose features are taken, those of most inliers first."""
    verified = [(hit, hit.verification) for hit in hits if hit.verification is not None]
    for hit, verification in verified:
        if verification.model == "fundamental":
            raise ConfigError(
                f"{hit.id!r} was verified with a fundamental matrix, which takes a point to a line, so that its "
                'features cannot be placed in the query; verify with model = "homography" or "affine"'
            )
    enough = [(hit, found) for hit, found in verified if found.transform is not None and found.same]
    enough.sort(key=lambda pair: (-pair[1].inliers, pair[0].rank, pair[0].id))
    return [(hit.id, verification) for hit, verification in enough[: config.count]]


def _mapped(image: LocalFeatures, verification: Verification, region: Box) -> _Mapped | None:
    """Return the features of an image that fall into a region of the query, or None if no transform tells."""
    inverse = _inverse(verification, image)
    if inverse is None:
        return None
    b = image.keypoints.astype(np.float64)
    u, v = b.T
    with np.errstate(all="ignore"):
        x, y, w = (row[0] * u + row[1] * v + row[2] for row in inverse)
        x, y = x / w, y / w
        # The area that a pixel gets is the determinant of the Jacobian, det(G) / w^3.
        scales = image.scales * np.sqrt(np.linalg.det(inverse) / w**3)
    x0, y0, x1, y1 = region
    kept = plausible(inverse, b) & (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    points = np.stack([x, y], axis=1)
    return _Mapped(points[kept], scales[kept], image.scores[kept], image.descriptors[kept])


def _inverse(verification: Verification, image: LocalFeatures) -> Float64 | None:
    """Return the map from the image to the query, positive third coordinates on the near side of its horizon."""
    assert verification.transform is not None
    try:
        G = np.asarray(np.linalg.inv(verification.transform), np.float64)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(G).all():
        return None
    depths = image.keypoints[verification.matches[:, 1]].astype(np.float64) @ G[2, :2] + G[2, 2]
    return G if (depths > 0).sum() >= (depths < 0).sum() else -G


def _check_same_features(
    query: LocalFeatures, image: LocalFeatures, image_id: str, verification: Verification
) -> None:
    if image.dim != query.dim:
        raise MismatchError(
            f"the query has {query.dim}-D descriptors, image {image_id!r} {image.dim}-D ones; extract both with "
            "the same model"
        )
    if len(verification.matches) and int(verification.matches[:, 1].max()) >= len(image):
        raise MismatchError(
            f"{image_id!r} was verified with more features than the {len(image)} given; give the source that it "
            "was verified with"
        )


def _region(query: LocalFeatures, box: Sequence[float] | None) -> Box:
    width, height = query.image_size
    if box is None:
        return (-0.5, -0.5, width - 0.5, height - 0.5)  # whole pixels: their centres are whole numbers
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"box must be x0, y0, x1, y1, got {box!r}") from error
    if not (x0 < x1 and y0 < y1):  # true for NaN as well
        raise ConfigError(f"box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {box!r}")
    return (x0, y0, x1, y1)


def _unit_rows(descriptors: npt.NDArray[np.float32]) -> Float64:
    rows = descriptors.astype(np.float64)
    return np.asarray(rows / np.sqrt((rows * rows).sum(axis=1))[:, None])
