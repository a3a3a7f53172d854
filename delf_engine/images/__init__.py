"""Photographs: which files of a folder are some, and their pixels."""

from delf_engine.images.files import find_images, image_suffixes
from delf_engine.images.reading import (
    MAX_PIXELS,
    Box,
    ImageSource,
    crop,
    load_image,
    load_reduced,
    source_name,
    turn,
)

__all__ = [
    "MAX_PIXELS",
    "Box",
    "ImageSource",
    "crop",
    "find_images",
    "image_suffixes",
    "load_image",
    "load_reduced",
    "source_name",
    "turn",
]
