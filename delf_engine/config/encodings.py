"""Options of the indexes that encode an image by one vector: words counted, residuals summed, or gradients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from delf_engine.config.base import Config, Count

__all__ = ["BowConfig", "FisherConfig", "Precision", "VladConfig"]

#: How the components of dense vectors are kept: float16 errs by at most 2^-11 of each and takes half the space.
Precision = Literal["float32", "float16"]
Power = Annotated[float, Field(gt=0, le=1)]


class BowConfig(Config):
    """Options of the bag of visual words (Sivic and Zisserman, ICCV 2003).

    Attributes
    ----------
    image_assignments, query_assignments : int
        Visual words each descriptor is assigned to, for indexed images and for queries.
    idf : bool
        Weight each word by ln(N / n_w), with N images of which n_w have it; else all alike.
    assignment : "exact" or "fast"
        How the words of a descriptor are found, see `Codebook.assign`.
    """

    image_assignments: Count = 1
    query_assignments: Count = 1
    idf: bool = True
    assignment: Literal["exact", "fast"] = "fast"


class VladConfig(Config):
    """Options of VLAD (Jégou et al., CVPR 2010) and of R-VLAD (Teichmann et al., CVPR 2019).

    Attributes
    ----------
    assignments : int
        Visual words each descriptor is assigned to, in images and queries.
    intra : bool
        Scale the sum of each word to unit length (Arandjelović and Zisserman, CVPR 2013): a repeated structure
        then counts no more than what is seen once.
    power : float
        Exponent p of sign(x) |x|^p, applied to each component after that; 1 changes nothing, 0.5 is usual.
    precision : "float32" or "float16"
        Of the vectors that are kept; queries are in float32.
    regions : "grid" or None
        Add the sums of regions to those of indexed images (R-VLAD): those of `delf_engine.regions.rigid_grid`,
        where no others are given.
    region_norm : "l2" or None
        Scale the sums of an image and of each of its regions to unit length over all words before they are added,
        as the published R-VLAD does, so that regions with few descriptors count as much as those with many.
    """

    assignments: Count = 1
    intra: bool = False
    power: Power = 0.5
    precision: Precision = "float32"
    regions: Literal["grid"] | None = None
    region_norm: Literal["l2"] | None = None


class FisherConfig(Config):
    """Options of Fisher vectors (Perronnin, Sánchez and Mensink, ECCV 2010).

    Attributes
    ----------
    power : float
        Exponent p of sign(x) |x|^p, applied to each component; 0.5 as published, 1 changes nothing.
    precision : "float32" or "float16"
        Of the vectors that are kept; queries are in float32.
    """

    power: Power = 0.5
    precision: Precision = "float32"
