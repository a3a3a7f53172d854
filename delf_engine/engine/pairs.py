"""Verifying pairs and re-ranking shortlists, without a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from delf_engine.config import Profile, load_profile
from delf_engine.engine.views import PairAnswer, View, verify_views
from delf_engine.errors import CheckpointError, FormatError, ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.model import checkpoint_path, packaged_folder
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch
from delf_engine.reranking.candidates import FeatureSource, Shortlist
from delf_engine.reranking.rerank import FineSources
from delf_engine.verification import Calibration, Verification, load_calibration

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor


def verify(
    a: ImageSource | LocalFeatures,
    b: ImageSource | LocalFeatures,
    *,
    model: str | os.PathLike[str] = "delf-r18",
    profile: str | os.PathLike[str] | None = None,
    box_a: Box | None = None,
    box_b: Box | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    fine: bool = True,
    fine_features: tuple[LocalFeatures, LocalFeatures] | None = None,
    turn: bool = True,
) -> Verification:
    """Verify whether two photographs show the same place.

    Where details agree that one of them is turned by 90, 180 or 270 degrees, or show nothing, it is turned, too.

    Parameters
    ----------
    a, b : image or LocalFeatures
        Path, bytes, PIL image, (H, W, 3) uint8 RGB array, or features made before.
    model : str or path
        Checkpoint, by name or path.
    profile : str, path or None
        Options by the name of a profile or the path of its file; None: the checkpoint's own.
    box_a, box_b : x0, y0, x1, y1 or None
        Regions of interest in pixels, for images.
    seed : int
        Seed of RANSAC.
    extractor : Extractor or None
        Used instead of loading `model`: give one when verifying many pairs, or the one that made the features.
    calibration : Calibration, path or None
        Gives the answer its probability; a file must hold for these options. None takes that of `model`, if it has
        one for these options and made the features, or else that of fine evidence alone.
    fine : bool
        Whether to ask for fine evidence, of two images; about 0.5 s.
    fine_features : (LocalFeatures, LocalFeatures) or None
        Fine features of A and of B (`delf_engine.extraction.fine_features`), instead of extracting them, or where
        features were given for images.
    turn : bool
        Whether to turn an image: up to three more extractions.

    Returns
    -------
    Verification

    Raises
    ------
    ImageError
        If an image cannot be read.
    CheckpointError, ConfigError
        If there is no such model or profile.
    FormatError, MismatchError
        If the calibration is no such file, or was fitted for another model or other options.
    """
    return verify_pair(
        a,
        b,
        model=model,
        profile=profile,
        box_a=box_a,
        box_b=box_b,
        seed=seed,
        extractor=extractor,
        calibration=calibration,
        fine=fine,
        fine_features=fine_features,
        turn=turn,
    ).verification


def verify_pair(
    a: ImageSource | LocalFeatures,
    b: ImageSource | LocalFeatures,
    *,
    model: str | os.PathLike[str] = "delf-r18",
    profile: str | os.PathLike[str] | None = None,
    box_a: Box | None = None,
    box_b: Box | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    fine: bool = True,
    fine_features: tuple[LocalFeatures, LocalFeatures] | None = None,
    turn: bool = True,
) -> PairAnswer:
    """Do what `verify` does, and return the features beside the answer, as the pictures of the pair need them."""
    if extractor is None and not (isinstance(a, LocalFeatures) and isinstance(b, LocalFeatures)):
        from delf_engine.extraction import Extractor

        extractor = Extractor.from_pretrained(model, profile=profile)
    info = None if extractor is None else extractor.info
    options = load_profile(profile or ("default" if info is None else info.profile))
    identity = None if info is None else info.identity
    if calibration is None:
        calibration = calibration_of(model, options, identity)
    elif isinstance(calibration, (str, os.PathLike)):
        where = os.fspath(calibration)
        calibration = load_calibration(where, profile=options, identity=identity)
        if calibration is None:  # beside a checkpoint of that name
            raise FormatError(f"{where}: no calibration that holds here; name the .json file of one")
    details = fine_features or (None, None)
    with_details = fine and fine_features is None and not any(isinstance(side, LocalFeatures) for side in (a, b))

    def view(side: ImageSource | LocalFeatures, box: Box | None, detail: LocalFeatures | None) -> View:
        if isinstance(side, LocalFeatures):
            return View(side, detail)
        assert extractor is not None
        features = extractor(side, box=box)
        if with_details:
            detail = _details(side, options, box, extractor.max_pixels)
        turned = partial(turned_features, side, extractor, box)
        return View(features, detail, turned if turn else None)

    first, second = view(a, box_a, details[0]), view(b, box_b, details[1])
    return verify_views(first, second, options, calibration=calibration, seed=seed)


def turned_features(image: ImageSource, extractor: Extractor, box: Box | None, rotation: int) -> LocalFeatures:
    """Return the features of a photograph that is turned, as a `View` needs them."""
    return extractor(image, box=box, rotation=rotation)


def _details(image: ImageSource, profile: Profile, box: Box | None, max_pixels: int) -> LocalFeatures | None:
    """Return the fine features of an image that was read; None if it is too large to be read as a whole."""
    from delf_engine.extraction.fine import fine_features

    try:
        return fine_features(image, config=profile.fine, box=box, max_pixels=max_pixels)
    except ImageError:
        return None


def rerank_many(
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    features: FeatureSource,
    *,
    profile: str | os.PathLike[str] = "default",
    top_n: int | None = None,
    top_k: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    distances: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
    confirm: int = 0,
    fine: FineSources | None = None,
    device: str = "cpu",
) -> dict[str, list[RankedCandidate]]:
    """Re-rank the shortlists of many queries by geometric verification; `rerank` takes one photograph.

    Parameters
    ----------
    queries, features : FeatureStore, mapping or function
        `LocalFeatures` by id, of the queries and of the candidates.
    shortlists : mapping of query id to sequence of ids or of (id, score)
        Candidates, best first.
    profile : str or path
        Takes the options of verification, re-ranking and the ranking score from it.
    top_n, top_k, seconds
        Candidates to verify for each query, and what may stop it earlier; see `RerankingConfig`. None: as the
        profile says.
    seed, distances, workers, calibration, confirm, fine, progress, checkpoint, device
        See `delf_engine.reranking.RerankOptions` and `rerank_batch`.

    Returns
    -------
    dict of query id to list of RankedCandidate
    """
    options = RerankOptions.of(
        load_profile(profile),
        top_n=top_n,
        top_k=top_k,
        seconds=seconds,
        seed=seed,
        distances=distances,
        workers=workers,
        calibration=calibration,
        confirm=confirm,
        device=device,
    )
    return rerank_batch(
        queries, shortlists, features, options, fine=fine, progress=progress, checkpoint=checkpoint
    )


def calibration_of(model: str | os.PathLike[str], profile: Profile, identity: str | None) -> Calibration | None:
    """Return the calibration beside a model's checkpoint that holds for these options.

    Where there is none, that of fine evidence alone, which comes with the package: it holds for any model. None if
    the options of fine evidence are others than it was fitted for.
    """
    with suppress(CheckpointError):
        own = identity and load_calibration(checkpoint_path(model), profile=profile, identity=identity)
        if own:
            return own
    details = Calibration.load(packaged_folder() / "details.calibration.json")
    return details if details.holds_for(profile=profile) else None
