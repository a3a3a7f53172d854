"""Labelled photographs: a folder of class folders, or the Google Landmarks v2 layout.

Only names and labels are held; photographs are read when a batch is drawn.
"""

from delf_engine.training.datasets.folders import read_class_folders
from delf_engine.training.datasets.labelled import LabelledImages, hold_out, select_classes
from delf_engine.training.datasets.landmarks import is_landmarks_layout, read_landmarks

__all__ = [
    "LabelledImages",
    "hold_out",
    "is_landmarks_layout",
    "read_class_folders",
    "read_landmarks",
    "select_classes",
]
