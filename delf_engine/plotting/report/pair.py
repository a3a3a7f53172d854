"""The page of one verified pair: the answer, the inliers, one photograph over the other, the figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from delf_engine.errors import ImageError
from delf_engine.images import ImageSource, source_name
from delf_engine.plotting.canvas import photo_of
from delf_engine.plotting.matches import draw_matches
from delf_engine.plotting.overlay import OverlayMode, draw_overlay
from delf_engine.plotting.report.page import (
    Picture,
    check_path,
    figure_picture,
    page_templates,
    short_name,
    write_page,
)

if TYPE_CHECKING:
    from delf_engine.features import LocalFeatures
    from delf_engine.verification import Verification

_OVERLAYS: tuple[OverlayMode, ...] = ("blend", "checkerboard")


def write_pair_report(
    path: str | os.PathLike[str],
    image_a: ImageSource,
    image_b: ImageSource,
    features_a: LocalFeatures,
    features_b: LocalFeatures,
    verification: Verification,
    *,
    title: str = "Two photographs",
) -> int:
    """Write a page about one verified pair: one HTML file that needs nothing else.

    Parameters
    ----------
    path : path
        Ending in .html; a file that is there is replaced as a whole.
    image_a, image_b : path, bytes, PIL image or array
        One that cannot be read is named in the place of the pictures.
    features_a, features_b : LocalFeatures
        Features of these images.
    verification : Verification
        Verification of these features, in this order.
    title : str

    Returns
    -------
    int
        Size of the file in bytes.

    Raises
    ------
    MismatchError
        If features or verification do not belong to these images.
    ConfigError
        If the name does not end in .html, or the file cannot be written.
    """
    target = check_path(path)
    features = features_a, features_b
    transform = [] if verification.transform is None else verification.transform.tolist()
    page = (
        page_templates()
        .get_template("pair.html.j2")
        .render(
            title=title,
            v=verification,
            sides=[(short_name(source_name(image_a)), features_a), (short_name(source_name(image_b)), features_b)],
            transform=[[f"{value:.6g}" for value in row] for row in transform],
            **_pictures((image_a, image_b), features, verification),
        )
    )
    return write_page(target, page)


def _pictures(
    images: tuple[ImageSource, ImageSource],
    features: tuple[LocalFeatures, LocalFeatures],
    verification: Verification,
) -> dict[str, Any]:
    """Return the pictures of a pair: those that are gone, lines between both, and overlays with what they show."""
    photos, gone = [], []
    for image, found in zip(images, features, strict=True):
        try:
            photos.append(photo_of(image, found))
        except ImageError as error:
            gone.append(Picture(short_name(source_name(image)), reason=error.reason))
    if gone:
        return {"gone": gone, "lines": None, "overlays": []}
    a, b = photos
    lines = figure_picture(
        draw_matches(a, b, *features, verification, caption=False), "features that agree, A to the left"
    )
    overlays = []
    if verification.model != "fundamental" and verification.transform is not None:
        for mode in _OVERLAYS:
            over = draw_overlay(a, b, verification, mode=mode, caption=False)
            overlays.append((figure_picture(over, f"overlay, {mode}"), over.get_label()))
    return {"gone": [], "lines": lines, "overlays": overlays}
