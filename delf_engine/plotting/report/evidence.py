"""The figures of a verification, in words."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from delf_engine.verification import Verification

__all__ = ["counted", "extra", "figures", "percent"]

_MODEL = {"affine": "affine map", "fundamental": "fundamental matrix"}


def extra(verification: Verification | None, name: str) -> float | None:
    """Return a figure that only some verifications have, or None."""
    value = getattr(verification, name, None)
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def percent(probability: float) -> str:
    """Return a probability in per cent; what rounds to 100 or 0 and is not is said to be above or below."""
    if 0.9995 <= probability < 1:
        return "above 99.9 %"
    if 0 < probability < 0.0005:
        return "below 0.1 %"
    return f"{100 * probability:.1f} %"


def counted(number: int, what: str) -> str:
    """Return a number of things, in the plural where there is not just one."""
    if number == 1:
        return f"{number:,} {what}"
    return f"{number:,} {what[:-1]}ies" if what.endswith("y") else f"{number:,} {what}s"


def figures(verification: Verification, probability: float | None) -> list[tuple[str, str]]:
    """Return names and values of what a verification has found.

    Parameters
    ----------
    verification : Verification
    probability : float or None
        Of the same place; None takes the verification's own, where it has one.
    """
    v = verification
    of = "" if v.reference_size is None else f" at {v.reference_size} px"
    rows = [
        ("Inliers", f"{v.inliers:,} of {v.putative:,} tentative matches"),
        ("Same place from", counted(v.min_inliers, "inlier")),
    ]
    stated = extra(v, "probability") if probability is None else probability
    if stated is not None:
        rows.append(("Probability of the same place", percent(stated)))
    effective = extra(v, "effective_inliers")
    if effective is not None:
        rows.append(("Effective inliers", f"{effective:.4g}"))
    rows.append(("Similarity", f"{v.inlier_similarity:.4g} over the inliers, {v.similarity:.4g} over all"))
    rows.append(("Model", _MODEL.get(v.model, v.model)))
    rows.append(("Largest residual allowed", f"{v.residual_px:g} px{of}"))
    error = extra(v, "error_px")
    if error is not None:
        rows.append(("Error of the inliers", f"{error:.3g} px"))
    return rows
