"""The page of one verified pair: the answer, the inliers, one photograph over the other, the figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from delf_engine.errors import ImageError
from delf_engine.images import ImageSource, source_name
from delf_engine.plotting.matches import draw_matches
from delf_engine.plotting.overlay import OverlayMode, draw_overlay
from delf_engine.plotting.page import photo_of
from delf_engine.plotting.report.evidence import figures
from delf_engine.plotting.report.markup import (
    check_path,
    definitions,
    document,
    short_name,
    table,
    text,
    write_page,
)
from delf_engine.plotting.report.pictures import figure_html, gone_html

if TYPE_CHECKING:
    from delf_engine.features import LocalFeatures
    from delf_engine.verification import Verification

__all__ = ["write_pair_report"]

_OVERLAYS: tuple[OverlayMode, ...] = ("blend", "checkerboard")


def write_pair_report(
    path: str | os.PathLike[str],
    image_a: ImageSource,
    image_b: ImageSource,
    features_a: LocalFeatures,
    features_b: LocalFeatures,
    verification: Verification,
    *,
    labels: tuple[str, str] | None = None,
    probability: float | None = None,
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
        Of these images.
    verification : Verification
        Of these features, in this order.
    labels : (str, str) or None
        Names of the photographs; None: those of their files.
    probability : float or None
        Of showing the same place; None takes the verification's own, if it has one.
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
    names = labels or (short_name(source_name(image_a)), short_name(source_name(image_b)))
    answer = "Same place" if verification.same else "Not the same place"
    body = [
        f"<h1>{text(title)}</h1>",
        f'<p><span class="verdict{" yes" if verification.same else ""}">{answer}</span></p>',
        f"<p>A: {text(names[0])}<br>B: {text(names[1])}</p>",
        *_pictures((image_a, image_b), (features_a, features_b), verification, names),
        "<h2>Figures</h2>",
        definitions([*figures(verification, probability), *_sizes(names, (features_a, features_b))]),
        _transform(verification),
    ]
    return write_page(target, document(title, body))


def _pictures(
    images: tuple[ImageSource, ImageSource],
    features: tuple[LocalFeatures, LocalFeatures],
    verification: Verification,
    names: tuple[str, str],
) -> list[str]:
    photos, gone = [], []
    for image, found, name in zip(images, features, names, strict=True):
        try:
            photos.append(photo_of(image, found))
        except ImageError as error:
            gone.append(gone_html(name, error.reason))
    if gone:
        return ["<h2>Features that agree</h2>", *gone]
    a, b = photos
    lines = draw_matches(a, b, *features, verification, caption=False)
    counts = f"{verification.inliers:,} of {verification.putative:,}"
    said = f"{counts} matching features agree on one {verification.model_name}"
    out = ["<h2>Features that agree</h2>", figure_html(lines, "features that agree, A to the left", said)]
    out.append("<h2>One over the other</h2>")
    if verification.model == "fundamental":
        out.append("<p>A fundamental matrix maps points to lines, so A cannot be laid over B.</p>")
    elif verification.transform is None:
        out.append("<p>No transform from A to B was found, so A cannot be laid over B.</p>")
    else:
        for mode in _OVERLAYS:
            over = draw_overlay(a, b, verification, mode=mode, caption=False)
            out.append(figure_html(over, f"overlay, {mode}", f"{over.get_label()}; yellow: the border of A"))
    return out


def _sizes(names: tuple[str, str], features: tuple[LocalFeatures, LocalFeatures]) -> list[tuple[str, str]]:
    return [
        (f"{letter}: {name}", f"{found.image_size[0]} x {found.image_size[1]} pixels, {len(found):,} features")
        for letter, name, found in zip("AB", names, features, strict=True)
    ]


def _transform(verification: Verification) -> str:
    if verification.transform is None:
        return ""
    rows = [[f"{value:.6g}" for value in row] for row in verification.transform.tolist()]
    what = (
        "Fundamental matrix"
        if verification.model == "fundamental"
        else "Transform from pixels of A to pixels of B"
    )
    return f"<details><summary>{what}</summary>{table((), rows, numbers=range(3))}</details>"
