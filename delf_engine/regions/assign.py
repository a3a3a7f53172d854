"""Which features lie in which region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FeatureError
from delf_engine.features import LocalFeatures
from delf_engine.regions.boxes import Boxes, checked_boxes

__all__ = ["Regions", "assign_to_regions"]


def assign_to_regions(features: LocalFeatures, boxes: npt.ArrayLike) -> list[npt.NDArray[np.int64]]:
    """Return the features inside each box.

    Parameters
    ----------
    features : LocalFeatures
        A feature belongs to a box if the pixel position of its keypoint does, whatever its receptive field covers.
    boxes : (R, 4) float32
        x0, y0, x1, y1 in pixels, x1 and y1 exclusive. They are in coordinates of pixel edges, so a keypoint (x, y)
        lies inside if x0 <= x + 0.5 < x1 and the same holds for y.

    Returns
    -------
    list of R (K,) int64
        Indices of the features, ascending, thus by descending score. A feature may be in several boxes, or none.

    Raises
    ------
    FeatureError
        If boxes are wrong: see `checked_boxes`.
    """
    regions = Regions.of(features, boxes)
    return [regions.members(region) for region in range(len(regions))]


def _inside(features: LocalFeatures, boxes: Boxes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return region and feature of each pair that belongs together, by region, then feature."""
    at = features.keypoints[None].astype(np.float64) + 0.5
    inside = ((boxes[:, None, :2] <= at) & (at < boxes[:, None, 2:])).all(axis=2)
    region, feature = np.nonzero(inside)
    return region, feature


@dataclass(frozen=True, eq=False, repr=False)
class Regions:
    """The regions of one image and the features in each.

    Arrays are copied, checked once, and read-only afterwards. ``R = 0`` is valid.

    Parameters
    ----------
    boxes : (R, 4) float32
        x0, y0, x1, y1 in pixels.
    offsets : (R + 1,) int64
        The members of region r are ``indices[offsets[r] : offsets[r + 1]]``.
    indices : (M,) int64
        Of features, ascending within a region.

    Raises
    ------
    FeatureError
        If boxes are wrong, offsets do not ascend from 0 to M, or indices are negative or not ascending.
    """

    boxes: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", checked_boxes(self.boxes))
        for name in ("offsets", "indices"):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        self._check()
        for array in (self.boxes, self.offsets, self.indices):
            array.flags.writeable = False

    def _check(self) -> None:
        if len(self.offsets) != len(self.boxes) + 1:
            raise FeatureError(
                f"{len(self.boxes)} regions need {len(self.boxes) + 1} offsets, not {len(self.offsets)}"
            )
        ends = (int(self.offsets[0]), int(self.offsets[-1]))
        if ends != (0, len(self.indices)) or (np.diff(self.offsets) < 0).any():
            raise FeatureError(f"offsets must ascend from 0 to the {len(self.indices)} indices")
        if (self.indices < 0).any():
            raise FeatureError("indices of features must not be negative")
        first = np.zeros(len(self.indices) + 1, bool)
        first[self.offsets] = True
        if (np.diff(self.indices) <= 0)[~first[1:-1]].any():
            raise FeatureError("indices must ascend within each region, each feature at most once")

    @classmethod
    def of(cls, features: LocalFeatures, boxes: npt.ArrayLike) -> Regions:
        """Return the regions of `boxes` with the features inside each, as `assign_to_regions`."""
        array = checked_boxes(boxes)
        region, feature = _inside(features, array)
        return cls(array, np.searchsorted(region, np.arange(len(array) + 1)), feature)

    @classmethod
    def from_members(cls, boxes: npt.ArrayLike, members: Sequence[npt.ArrayLike]) -> Regions:
        """Return regions from one array of feature indices for each box."""
        parts = [_whole_numbers("indices", part) for part in members]
        offsets = np.cumsum([0] + [len(part) for part in parts])
        return cls(checked_boxes(boxes), offsets, np.concatenate([np.empty(0, np.int64), *parts]))

    def __len__(self) -> int:
        return len(self.boxes)

    def members(self, region: int) -> npt.NDArray[np.int64]:
        """Return the indices of the features in one region, (K,) int64.

        Raises
        ------
        IndexError
            If there is no such region.
        """
        if not 0 <= region < len(self):
            raise IndexError(f"there is no region {region} among {len(self)}")
        return self.indices[self.offsets[region] : self.offsets[region + 1]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Regions):
            return NotImplemented
        return all(np.array_equal(getattr(self, n), getattr(other, n)) for n in ("boxes", "offsets", "indices"))

    __hash__ = None  # type: ignore[assignment]  # equality by value of arrays: not a dictionary key

    def __repr__(self) -> str:
        return f"Regions({len(self)} regions, {len(self.indices)} members)"


def _whole_numbers(name: str, value: npt.ArrayLike) -> npt.NDArray[np.int64]:
    array = np.asarray(value)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise FeatureError(f"{name} must be whole numbers in one dimension, got {array.dtype} {array.shape}")
    return array.astype(np.int64)
