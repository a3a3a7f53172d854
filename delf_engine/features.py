"""`LocalFeatures`: the record that every stage takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FeatureError
from delf_engine.support.arrays import check_array

# Half precision leaves up to 5e-4 on a component, 8 bits leave 2e-3; a descriptor that was never
# normalised is off by far more.
_NORM_TOLERANCE = 2e-2


@dataclass(frozen=True, eq=False, repr=False)
class LocalFeatures:
    """The local features of one image.

    Arrays are copied to contiguous float32 when needed, checked once, and read-only afterwards.
    ``N = 0`` is valid: an image without features.

    Parameters
    ----------
    keypoints : (N, 2) float32
        **x, y** in pixels of the original image. The centre of the top left pixel is (0, 0).
    scales : (N,) float32
        Size of each feature: 1 / scale of its pyramid level, relative to the original image. Positive.
    scores : (N,) float32
        Attention scores, sorted in descending order.
    descriptors : (N, D) float32
        L2-normalised rows.
    image_size : (width, height)
        Size of the original image, in pixels.

    Raises
    ------
    FeatureError
        If shapes disagree, a value is not finite, scores are not sorted, scales are not positive, or
        descriptors are not normalised.
    """

    keypoints: npt.NDArray[np.float32]
    scales: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.float32]
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        n = len(_own(self, "keypoints", (None, 2)))
        for name, shape in (("scales", (n,)), ("scores", (n,)), ("descriptors", (n, None))):
            _own(self, name, shape)
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        if self.dim == 0:
            raise FeatureError("descriptors must have at least one dimension; for no features use (0, D)")
        if n:
            self._check_values()

    def _check_values(self) -> None:
        if self.scales.min() <= 0:
            raise FeatureError("scales must be positive")
        if (np.diff(self.scores) > 0).any():
            raise FeatureError("scores must be sorted in descending order")
        norms = np.sqrt(np.einsum("nd,nd->n", self.descriptors, self.descriptors, dtype=np.float64))
        worst = int(np.abs(norms - 1).argmax())
        if abs(norms[worst] - 1) > _NORM_TOLERANCE:
            raise FeatureError(f"descriptors must be L2-normalised; row {worst} has norm {norms[worst]:.4g}")

    @classmethod
    def empty(cls, image_size: tuple[int, int], dim: int = 40) -> LocalFeatures:
        """Return the features of an image that has none.

        Parameters
        ----------
        image_size : (width, height)
            Size of the image, in pixels.
        dim : int
            Descriptor dimension D, so that the empty value fits beside others.
        """
        return cls(np.empty((0, 2)), np.empty(0), np.empty(0), np.empty((0, dim)), image_size)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self.descriptors.shape[1])

    def top(self, k: int) -> LocalFeatures:
        """Return the `k` features of highest attention score, or all if there are fewer.

        Raises
        ------
        FeatureError
            If `k` is negative.
        """
        if k < 0:
            raise FeatureError(f"top(k) needs k >= 0, got {k}")
        if k >= len(self):
            return self
        return LocalFeatures(
            self.keypoints[:k], self.scales[:k], self.scores[:k], self.descriptors[:k], self.image_size
        )

    def turned(self, rotation: int) -> LocalFeatures:
        """Return the features as they stand once the image is turned, descriptors as they are.

        Parameters
        ----------
        rotation : int
            Degrees counterclockwise, a multiple of 90.
        """
        width, height = self.image_size
        x, y = self.keypoints.T
        if (quarters := rotation // 90 % 4) == 0:
            return self
        places = {1: (y, width - 1 - x), 2: (width - 1 - x, height - 1 - y), 3: (height - 1 - y, x)}
        size = (width, height) if quarters == 2 else (height, width)
        keypoints = np.stack(places[quarters], axis=1)
        return LocalFeatures(keypoints, self.scales, self.scores, self.descriptors, size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LocalFeatures):
            return NotImplemented
        return self.image_size == other.image_size and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("keypoints", "scales", "scores", "descriptors")
        )

    __hash__ = None  # type: ignore[assignment]  # equality by value of large arrays: not a dictionary key

    def __repr__(self) -> str:
        width, height = self.image_size
        return f"LocalFeatures({len(self)} x {self.dim}-D, image {width} x {height})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python lists and numbers, ready for JSON."""
        return {
            "keypoints": self.keypoints.tolist(),
            "scales": self.scales.tolist(),
            "scores": self.scores.tolist(),
            "descriptors": self.descriptors.tolist(),
            "image_size": list(self.image_size),
        }


def _own(features: LocalFeatures, name: str, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    """Check one array of a record, and put it in its place as one that nobody can write to."""
    given = getattr(features, name)
    array = check_array(name, given, np.float32, shape)
    if array.flags.writeable:
        # Memory of the caller, an array's or a tensor's: freezing it in place would freeze the caller's too.
        if np.may_share_memory(array, np.asarray(given)):
            array = array.copy()
        array.flags.writeable = False
    object.__setattr__(features, name, array)
    return array


def _checked_size(size: Any) -> tuple[int, int]:
    try:
        width, height = (int(v) for v in size)
    except (TypeError, ValueError, OverflowError) as error:
        raise FeatureError(f"image_size must be (width, height), got {size!r}") from error
    if width < 1 or height < 1:
        raise FeatureError(f"image_size must be positive, got {(width, height)}")
    return width, height
