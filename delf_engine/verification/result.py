"""`Verification`: the answer to "do these two images show the same place", with its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.verification.fine import FineEvidence
from delf_engine.verification.geometry import turned_round

Verdict = Literal["same", "different", "unsure"]

#: What fields of a written verification are made to be, and which of them may be None.
_NUMBERS: dict[str, type] = {
    **dict.fromkeys(("model", "estimator"), str),
    **dict.fromkeys(
        ("putative", "min_inliers", "effective_inliers", "reference_size", "overlay", "rotation"), int
    ),
    **dict.fromkeys(("residual_px", "similarity", "exponent", "error_px", "probability", "accept"), float),
}
_OPTIONAL = {"reference_size", "error_px", "probability", "accept"}
#: Below this probability two images are said to show different places.
_REJECT = 0.5


def similarity_sum(similarities: npt.ArrayLike, exponent: float) -> float:
    """Return the sum of similarity^exponent over matches, correctly rounded, so that their order does not matter.

    Cosine similarities, (M,), below 0 count as 0, those above 1 (by rounding) as 1; `exponent` is above 0.
    """
    powers = np.clip(np.asarray(similarities, np.float32).astype(np.float64), 0, 1) ** exponent
    return math.fsum(powers.tolist())


def percent(probability: float) -> str:
    """Write a probability so that it never looks surer than it is: 99.7 %, but no 100 % for less than 1."""
    text = f"{100 * probability:.1f} %"
    if probability < 1 and text == "100.0 %":
        return "> 99.9 %"
    return "< 0.1 %" if probability > 0 and text == "0.0 %" else text


@dataclass(frozen=True, eq=False, repr=False)
class Verification:
    """Which features of two images agree on one transform between them.

    Parameters
    ----------
    model : "affine", "homography" or "fundamental"
    transform : (3, 3) float64 or None
        Maps pixels of image A to pixels of image B (x_B ~ H x_A), with H[2, 2] = 1; for ``fundamental``
        x_B^T F x_A = 0, with Frobenius norm 1. None if no model was found; then there are no inliers.
    matches : (M, 2) int32
        The inliers: index of the keypoint in A and of the one in B, ascending in A.
    similarities : (M,) float32
        Cosine similarity of the descriptors of each inlier match.
    putative : int
        Number of tentative matches, before geometry.
    residual_px : float
        Largest Sampson distance of an inlier, in pixels.
    reference_size : int or None
        If given, pixels of `residual_px` are those of images shrunk to this longer side (smaller ones stay).
    min_inliers : int
        Inliers from which on the verdict is "same" where there is no probability.
    similarity : float
        Sum of similarity^exponent over all mutual nearest neighbours of the two images, without geometry, limit
        of distance or ratio test.
    exponent : float
        Exponent of the similarities summed in `similarity` and `inlier_similarity`.
    estimator : str
        What the model was fitted by (see `models`).
    effective_inliers : int
        Inliers that lie apart: squares of a grid with `residual_px` a side that hold one, in A or in B, whichever
        has fewer (Schönberger et al., ACCV 2016). Many matches of one small spot count little.
        Left out: all inliers.
    error_px : float or None
        Root mean square of the inliers' Sampson distances, in the pixels of `residual_px`. None without inliers.
    probability : float or None
        That the images show the same place, as a `Calibration` says; None without one. It holds for the share of
        true pairs that the calibration was fitted for.
    accept : float or None
        Probability from which on the verdict is "same".
    fine : FineEvidence or None
        What keypoints of pixel accuracy say; None if they were not asked. `transform` is theirs if they have one.
    overlay : int
        Matches left out because both images wear the same frame, caption or screenshot chrome.
    rotation : 0, 90, 180 or 270
        Degrees by which image A was turned, counterclockwise, to agree with B; `transform` maps A as it is.
    """

    model: str
    transform: npt.NDArray[np.float64] | None
    matches: npt.NDArray[np.int32]
    similarities: npt.NDArray[np.float32]
    putative: int
    residual_px: float
    reference_size: int | None
    min_inliers: int
    similarity: float
    exponent: float
    estimator: str = "ransac"
    effective_inliers: int = -1
    error_px: float | None = None
    probability: float | None = None
    accept: float | None = None
    fine: FineEvidence | None = None
    overlay: int = 0
    rotation: int = 0

    def __post_init__(self) -> None:
        transform = None if self.transform is None else _frozen(self.transform, np.float64, (3, 3))
        object.__setattr__(self, "transform", transform)
        object.__setattr__(self, "matches", _frozen(self.matches, np.int32, (-1, 2)))
        if self.effective_inliers < 0:
            object.__setattr__(self, "effective_inliers", len(self.matches))
        object.__setattr__(self, "similarities", _frozen(self.similarities, np.float32, (len(self.matches),)))

    @property
    def inliers(self) -> int:
        """Number of matches that agree with the transform."""
        return len(self.matches)

    @property
    def inlier_ratio(self) -> float:
        """Share of the tentative matches that are inliers; 0 if there is no match."""
        return self.inliers / self.putative if self.putative else 0.0

    @property
    def inverse(self) -> npt.NDArray[np.float64] | None:
        """The transform from pixels of B to pixels of A: H^-1, or F^T. None if there is no transform."""
        return None if self.transform is None else turned_round(self.model, self.transform)

    @property
    def inlier_similarity(self) -> float:
        """Sum of similarity^exponent over the inliers."""
        return similarity_sum(self.similarities, self.exponent)

    @property
    def verdict(self) -> Verdict:
        """What is said of the two images: "same" place, "different" places, or "unsure".

        By the probability: "same" from `accept` on, "different" below one half. Without one by the inliers alone.
        """
        if self.probability is None or self.accept is None:
            return "same" if self.inliers >= self.min_inliers else "different"
        if self.probability >= self.accept:
            return "same"
        return "different" if self.probability < _REJECT else "unsure"

    @property
    def same(self) -> bool:
        """Whether the verdict is "same"."""
        return self.verdict == "same"

    def __bool__(self) -> bool:
        return self.same

    @property
    def why(self) -> str:
        """The evidence in words."""
        coarse = f"{self.inliers} of {self.putative} coarse matches agree on one {self.model_name}"
        parts = [coarse]
        if self.fine is not None:
            parts.append(self._details_in_words(self.fine))
        overlay = self.overlay + (self.fine.overlay if self.fine else 0)
        if overlay:
            parts.append(f"{overlay} matches of a frame or caption that both wear do not count")
        if self.rotation:
            parts.append(f"with the first one turned by {self.rotation} degrees")
        return "; ".join(parts)

    def _details_in_words(self, fine: FineEvidence) -> str:
        if fine.details:
            return f"{fine.details} details do"
        if fine.small:
            return "a photograph is too small to show details"
        look_alike = self.inliers >= self.min_inliers and not self.same
        return "no detail does" + (": a look-alike, or too little to see" if look_alike else "")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Verification):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # equality by value of arrays: not a dictionary key

    def __repr__(self) -> str:
        sure = "" if self.probability is None else f"probability={self.probability:.4g}, "
        return (
            f"Verification(verdict={self.verdict!r}, {sure}inliers={self.inliers}, putative={self.putative}, "
            f"similarity={self.similarity:.4g}, model={self.model!r})"
        )

    @property
    def answer(self) -> str:
        """The verdict in words, with its probability."""
        words = {"same": "the same place", "different": "not the same place", "unsure": "perhaps the same place"}
        sure = "" if self.probability is None else f" (probability {percent(self.probability)})"
        return f"{words[self.verdict]}{sure}"

    def __str__(self) -> str:
        return f"{self.answer}: {self.why}"

    def _repr_html_(self) -> str:
        colour = {"same": "#1a7f37", "different": "#9a3412", "unsure": "#9a6700"}[self.verdict]
        rows = {
            "coarse matches": f"{self.inliers} of {self.putative} on one {self.model_name}, {self._residual}",
            "fine matches": "not asked"
            if self.fine is None
            else f"{self.fine.epipolar} of {self.fine.putative} agree on the geometry of two views, "
            f"{self.fine.planar} on one plane",
            "effective inliers": f"{self.effective_inliers} places",
            "error": "" if self.error_px is None else f"{self.error_px:.1f} px",
            "similarity": f"{self.inlier_similarity:.4g} over the inliers, {self.similarity:.4g} over all",
        }
        body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
        answer = escape(self.answer[0].upper() + self.answer[1:])
        return f'<strong style="color:{colour}">{answer}</strong><p>{escape(self.why)}</p><table>{body}</table>'

    @property
    def model_name(self) -> str:
        """The model in words."""
        return {"affine": "affine map", "fundamental": "fundamental matrix"}.get(self.model, self.model)

    @property
    def _residual(self) -> str:
        of = "" if self.reference_size is None else f" at {self.reference_size} px"
        return f"within {self.residual_px:g} px{of}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python lists and numbers, ready for JSON; `from_dict` takes them back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **{name: getattr(self, name) for name in ("verdict", "same", "why")},
            **{name: getattr(self, name) for name in ("inliers", "inlier_ratio", "inlier_similarity")},
            **{name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()},
            "fine": None if self.fine is None else asdict(self.fine),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verification:
        """Return the verification that `to_dict` has written.

        Raises
        ------
        FormatError
            If a field is missing, or one is not a number or out of range or has the wrong shape.
        """
        try:
            found = {field.name: values[field.name] for field in fields(cls)}
            for name, kind in _NUMBERS.items():
                if found[name] is not None or name not in _OPTIONAL:
                    found[name] = kind(found[name])
            if found["fine"] is not None:
                found["fine"] = FineEvidence.from_dict(found["fine"])
            if found["probability"] is not None and not 0 <= found["probability"] <= 1:
                raise ValueError(f"probability must be from 0 to 1, got {found['probability']}")
            return cls(**found)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a verification: {type(error).__name__}: {error}") from error


def _frozen(value: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return a read-only array that nobody else can change: a copy, unless `value` is one already."""
    if isinstance(value, np.ndarray) and value.dtype == dtype and not value.flags.writeable:
        owner = value if value.base is None else value.base
        if isinstance(owner, np.ndarray) and not owner.flags.writeable:
            return value.reshape(shape)
    array = np.array(value, dtype=dtype)
    array.flags.writeable = False
    return array.reshape(shape)
