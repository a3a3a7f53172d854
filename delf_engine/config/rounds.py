"""Options of second rounds: what is done with a ranking that has been verified once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from delf_engine.config.base import Config, Count

__all__ = ["ExpansionConfig", "GraphConfig"]


class ExpansionConfig(Config):
    """How a query is joined by the features of the images that were verified with it.

    The defaults were written down before anything was measured with them.

    Attributes
    ----------
    count : int
        Images whose features are taken, at most: those with the most inliers.
    min_inliers : int or None
        Inliers an image needs to be one of them; None: as many as the verification wants to call it the same
        place.
    max_features : int
        Features of the expanded query, at most. The query's own come first, the others by attention.
    similarity : float
        Two features at the same place, within the residual of the verification, are one and the same if the cosine
        similarity of their descriptors is at least this.
    """

    count: Count = 10
    min_inliers: Count | None = None
    max_features: Count = 2000
    similarity: Annotated[float, Field(ge=-1, le=1)] = 0.8


class GraphConfig(Config):
    """How images of a ranking speak for each other.

    The defaults were written down before anything was measured with them.

    Attributes
    ----------
    top : int
        Verified candidates that are ranked again, the first of each ranking; the rest keep their order behind
        them.
    neighbours : int
        Candidates that each of them is verified with, at most: those of the most inliers with the query. That is
        at most `top` times `neighbours` verifications a query.
    min_inliers : int or None
        Inliers from which on two images are joined; None: as many as the verification wants to call it the same
        place.
    blend : float
        How much a path through another image counts: 0 is the number of inliers with the query alone, 1 the widest
        path whatever it goes through.
    """

    top: Count = 100
    neighbours: Count = 5
    min_inliers: Count | None = None
    blend: Annotated[float, Field(ge=0, le=1)] = 0.5
