"""A stand-in for photographs of landmarks, at any size, out of nothing: invented places, with the truth known.

`synthesize` renders a set in the layout of the revisited benchmarks: buildings under true perspective from many
sides, in many lights, behind what stands in the way, among thousands of other places. Which photographs are
easy, hard and junk follows from the geometry, and so do the homographies between any two views of a face.
"""

from delf_engine.synthesis.folder import SUMMARY
from delf_engine.synthesis.plan import Options
from delf_engine.synthesis.records import (
    GEOMETRY,
    PhotoRecord,
    SeenFace,
    homography_between,
    load_geometry,
)
from delf_engine.synthesis.synthesize import DEFAULT_NAME, Synthesized, synthesize

__all__ = [
    "DEFAULT_NAME",
    "GEOMETRY",
    "SUMMARY",
    "Options",
    "PhotoRecord",
    "SeenFace",
    "Synthesized",
    "homography_between",
    "load_geometry",
    "synthesize",
]
