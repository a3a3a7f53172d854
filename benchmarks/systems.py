"""Systems of local features that benchmarks compare: our checkpoints, and others' features beside them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

from benchmarks.common import by_homography, cached_features, rank_features
from benchmarks.peers import Peer, aliked, file_hash, root_sift
from delf_engine import LocalFeatures, load_profile
from delf_engine.config import ExtractionConfig, Profile
from delf_engine.evaluation import GroundTruth

__all__ = ["PEERS", "System", "model_system", "model_systems", "peer_system", "weights_folder"]

Features = dict[str, LocalFeatures]

PEERS = ("rootsift", "aliked")

#: The one threshold that the data README gives a figure for; not searched here, as ours was.
_SIFT_RESIDUAL_PX = 6.0


@dataclass(frozen=True)
class System:
    """Local features and how they are indexed and verified.

    Attributes
    ----------
    name : str
    identity : str
        All that its features depend on: the key of the cache.
    dim : int
    extract : callable
    profile : Profile
    codebook : Path or None
        That comes with the checkpoint.
    """

    name: str
    identity: str
    dim: int
    extract: Peer
    profile: Profile
    codebook: Path | None

    def ranked(self, truth: GroundTruth, data: Path, cache: Path) -> tuple[Features, Features]:
        """Return the features of the queries, cropped, and of the gallery."""
        return rank_features(self.extract, self.identity, self.dim, truth, data, cache)

    def features_of(self, what: str, photos: Mapping[str, Path], cache: Path) -> Features:
        """Return the features of photographs by id; `what` they are tells them from others in the cache."""
        items = {name: partial(self.extract, path) for name, path in photos.items()}
        return cached_features(cache, f"{self.identity} {what}", self.dim, items, title=what)


def model_systems(models: Sequence[str], profile: str | None, precision: Any) -> list[System]:
    """Return a system for each checkpoint, named by the file's stem where those differ."""
    stems = [Path(model).stem for model in models]
    names = stems if len(set(stems)) == len(stems) else models
    return [
        model_system(model, name=name, profile=profile, precision=precision)
        for name, model in zip(names, models, strict=True)
    ]


def model_system(
    model: str,
    *,
    name: str | None = None,
    profile: str | None = None,
    precision: Any = None,
    config: ExtractionConfig | None = None,
) -> System:
    """Return the system of a checkpoint; without a profile, by the checkpoint's own.

    With `config` features are extracted by it, whatever the profile says.
    """
    from delf_engine import Extractor  # torch, which runs on stored features do without
    from delf_engine.model import codebook_path

    extractor = Extractor.from_pretrained(
        model, profile=None if config else profile, precision=precision, config=config
    )
    assert extractor.info is not None
    return System(
        name=name or model,
        identity=f"{extractor.info.identity} {extractor.config.model_dump_json()}",
        dim=extractor.network.dim,
        extract=extractor,
        profile=load_profile(profile or extractor.info.profile),
        codebook=codebook_path(model),
    )


def peer_system(name: str, profile: str | None, weights: Path) -> System:
    """Return RootSIFT or ALIKED, verified by homographies: their keypoints have one scale or none of ours.

    Parameters
    ----------
    name : "rootsift" or "aliked"
    profile : str or None
        What else is done with the features; None is the default profile.
    weights : Path
        Folder of ``aliked-n16.safetensors``.
    """
    chosen = load_profile(profile or "default")
    if name == "rootsift":
        identity = f"RootSIFT 1000, OpenCV {cv2.__version__}"
        changes: dict[str, Any] = {"residual_px": _SIFT_RESIDUAL_PX, "reference_size": None}
        return System("RootSIFT", identity, 128, root_sift, _with_verification(chosen, changes), None)
    path = weights / "aliked-n16.safetensors"
    changes = {"mutual": True, "ratio": None, "max_distance": None}
    identity = f"ALIKED-n16@{file_hash(path)[:16]} 1000 at 1024, kornia {version('kornia')}"
    return System("ALIKED-n16", identity, 128, aliked(path), _with_verification(chosen, changes), None)


def weights_folder(args: argparse.Namespace, data: Path) -> Path:
    """Return where the weights of peers are: as given, or ``weights`` beside the data."""
    return Path(args.weights) if args.weights else data.parent / "weights"


def _with_verification(profile: Profile, changes: Mapping[str, Any]) -> Profile:
    homography = by_homography(profile.verification)
    return profile.model_copy(update={"verification": homography.model_copy(update=dict(changes))})
