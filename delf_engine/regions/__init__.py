"""Regions of an image that are aggregated one by one: where they come from, and which features lie in them.

Regional aggregation describes an image by itself and by parts of it, so that an object that fills little of a
photograph is not lost among everything else (R-ASMK: Teichmann et al., CVPR 2019; R-MAC: Tolias et al.,
ICLR 2016).

A box is x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive: (0, 0, width, height) is the whole image. Its
coordinates are those of pixel *edges*, as in `delf_engine.images.crop`; keypoints are given by pixel *centres*, so
the keypoint (0, 0) lies at (0.5, 0.5) of a box's coordinates.
"""

from delf_engine.regions.assign import Regions, assign_to_regions
from delf_engine.regions.attention import attention_boxes
from delf_engine.regions.boxes import box_iou, clip_boxes
from delf_engine.regions.files import read_boxes, write_boxes
from delf_engine.regions.grid import rigid_grid

__all__ = [
    "Regions",
    "assign_to_regions",
    "attention_boxes",
    "box_iou",
    "clip_boxes",
    "read_boxes",
    "rigid_grid",
    "write_boxes",
]
