"""Options of the indexes that keep one vector an image: words counted, residuals summed, or gradients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from delf_engine.config.base import Config, Count

__all__ = ["BowConfig", "FisherConfig", "VladConfig"]

Power = Annotated[float, Field(gt=0, le=1)]


class BowConfig(Config):
    """Options of the bag of visual words (Sivic and Zisserman, ICCV 2003).

    Attributes
    ----------
    query_assignments : int
        Visual words each descriptor of a query is assigned to; one in indexed images.
    idf : bool
        Weight each word by ln(N / n_w), with N images of which n_w have it; else all alike.
    """

    query_assignments: Count
    idf: bool


class VladConfig(Config):
    """Options of VLAD (Jégou et al., CVPR 2010) and of R-VLAD (Teichmann et al., CVPR 2019).

    Attributes
    ----------
    intra : bool
        Scale the sum of each word to unit length (Arandjelović and Zisserman, CVPR 2013): a repeated structure
        then counts no more than what is seen once.
    power : float
        Exponent p of sign(x) |x|^p, applied to each component after that; 1 changes nothing, 0.5 is usual.
    regions : "grid" or None
        Add the sums of the regions of `delf_engine.index.grid` to those of indexed images, all at unit length over
        all words: regions with few descriptors count as much as the image.
    """

    intra: bool
    power: Power
    regions: Literal["grid"] | None


class FisherConfig(Config):
    """Options of Fisher vectors (Perronnin, Sánchez and Mensink, ECCV 2010).

    Attributes
    ----------
    power : float
        Exponent p of sign(x) |x|^p, applied to each component; 0.5 as published, 1 changes nothing.
    """

    power: Power
