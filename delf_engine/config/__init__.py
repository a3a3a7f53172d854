"""Profiles: every constant of a pipeline in one file under ``configs/``, read into one typed object.

A profile is a TOML file. ``extends = "default"`` takes everything from another profile and overrides what the
file names. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from delf_engine.config.base import Config, Count, Positive, parse_config, read_toml
from delf_engine.config.pairs import FineConfig, VerificationConfig
from delf_engine.errors import ConfigError

__all__ = [
    "AsmkConfig",
    "BowConfig",
    "Config",
    "ExtractionConfig",
    "FineConfig",
    "FisherConfig",
    "IvfConfig",
    "KdTreeConfig",
    "Profile",
    "RankingConfig",
    "RerankingConfig",
    "StorageConfig",
    "VerificationConfig",
    "VladConfig",
    "config_directory",
    "load_profile",
    "parse_config",
    "profile_names",
    "read_extended",
    "read_toml",
]

Power = Annotated[float, Field(gt=0, le=1)]


class ExtractionConfig(Config):
    """How features are extracted.

    Attributes
    ----------
    scales : tuple of float
        Pyramid scales, relative to the input after `max_image_size`.
    max_image_size : int or None
        Photographs whose longer side exceeds this many pixels are shrunk to it first.
    max_features : int
        Features kept an image, the best by attention over all scales jointly.
    min_score : float
        Attention threshold: features below it are dropped.
    resize : "area" or "bilinear"
        Filter when shrinking. Growing is always bilinear.
    min_side : int
        Pyramid levels whose shorter side has fewer pixels are left out; images smaller than that are refused.
    precision : "auto", "fp32" or "bf16"
        Arithmetic of the network's trunk. ``auto``: bfloat16 where the hardware multiplies it, else float32.
    fill_scales : tuple of float
        Finer scales for small images and crops: taken in order, each only while the pyramid so far has fewer
        than `max_features` cells.
    reduced_decoding : bool
        Decode a JPEG at 1/2, 1/4 or 1/8 of its size where its finest level needs no more: faster for photographs
        much larger than `max_image_size`, features close to those of the whole, not the same. Crops are decoded
        whole.
    min_image_size : int
        Photographs whose longer side has fewer pixels are enlarged to it first.
    trim_frames : bool
        Leave out uniform bands along the edges: letterboxes, frames, margins. What is left is taken for the whole.
    min_contrast : float
        Least standard deviation of brightness, of 255, around a feature (3 by 3 cells of the feature map): flat
        patches look alike everywhere.
    max_pixels : int or None
        Photographs of which more pixels would have to be decoded are refused; None: see
        `delf_engine.images.MAX_PIXELS`. A JPEG above it is decoded reduced whatever `reduced_decoding` says.
    """

    scales: tuple[Positive, ...] = Field(min_length=1)
    max_image_size: Count | None
    max_features: Count
    min_score: float
    resize: Literal["area", "bilinear"]
    min_side: Count
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    fill_scales: tuple[Positive, ...] = ()
    reduced_decoding: bool = False
    # Without these, as engines of the last release are.
    min_image_size: Annotated[int, Field(ge=0)] = 0
    trim_frames: bool = False
    min_contrast: Annotated[float, Field(ge=0, le=255)] = 0.0
    max_pixels: Count | None = None

    def for_codebook(self) -> ExtractionConfig:
        """Return these options without `fill_scales`, as codebooks are trained.

        Training photographs are small, and the fine texture of those levels is not what full-sized photographs are
        indexed by: a codebook that spends its words on it ranks them worse.
        """
        return self.model_copy(update={"fill_scales": ()})


class StorageConfig(Config):
    """How features are stored: the descriptor codec, ``float32``, ``float16`` or ``uint8``."""

    codec: Literal["float32", "float16", "uint8"]


class AsmkConfig(Config):
    """Options of the ASMK index (Tolias, Avrithis, Jégou 2016; constants of the published code).

    Attributes
    ----------
    image_assignments, query_assignments : int
        Visual words each descriptor is assigned to, for indexed images and for queries.
    alpha : float
        Exponent of the selectivity function ``sign(s) |s|^alpha``.
    threshold : float
        Similarities below it score nothing.
    idf : bool
        Weight each word by ln(N / n_w)^2.
    assignment : "exact" or "fast"
        How the words of a descriptor are found, see `Codebook.assign`.
    divisor : "bits" or "padded"
        Similarity of two binary codes is 1 - 2 h / D, or with D rounded up to a multiple of 32, as jenicek/asmk
        has it: there two random codes of 40 bits score 0.375 and not 0.
    regions : "grid" or None
        Count the descriptors of indexed images once more in each region that they lie in (R-ASMK), those of
        `delf_engine.grid`.
    """

    image_assignments: Count
    query_assignments: Count
    alpha: Positive
    threshold: Annotated[float, Field(ge=-1, le=1)]
    idf: bool
    assignment: Literal["exact", "fast"]
    divisor: Literal["bits", "padded"]
    regions: Literal["grid"] | None


class KdTreeConfig(Config):
    """Options of the KD-tree index.

    Attributes
    ----------
    trees : int
        Randomised trees built over all descriptors (FLANN; Muja and Lowe 2009).
    checks : int
        Leaves of them visited for each query descriptor: more is more exact and slower.
    neighbours : int
        Nearest descriptors taken for each query descriptor (60 in DELF, ICCV 2017).
    search : "auto", "exact" or "randomised"
        ``exact``: the nearest descriptors by one KD-tree that is searched to the end (SciPy). ``randomised``: most
        of them, by the randomised trees. ``auto``: exact below `exact_below` descriptors. Fewer than 8 times
        `neighbours` descriptors are always searched exactly.
    exact_below : int
        Descriptors of the collection from which on ``auto`` takes the randomised trees.
    """

    trees: Count
    checks: Count
    neighbours: Count
    search: Literal["auto", "exact", "randomised"]
    exact_below: Count


class IvfConfig(Config):
    """Options of the index of single descriptors at scale: cells of a codebook, scanned one by one.

    Attributes
    ----------
    codec : "uint8" or "pq"
        How a descriptor is kept: in D bytes, or by a code of product quantisation, one byte for every 4
        dimensions, which takes a quarter of that and finds fewer of the nearest descriptors.
    probes : int
        Nearest cells visited by each query descriptor: more is more exact and slower. What each costs and finds is
        printed by ``benchmarks/index/kdtree.py``; time grows with the descriptors in these cells.
    neighbours : int
        Nearest descriptors taken for each query descriptor (60 in DELF).
    assignment : "exact" or "fast"
        How nearest cells are found, see `Codebook.assign`.
    """

    codec: Literal["uint8", "pq"]
    probes: Count
    neighbours: Count
    assignment: Literal["exact", "fast"]


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
        Exponent p of ``sign(x) |x|^p``, applied to each component after that; 1 changes nothing, 0.5 is usual.
    regions : "grid" or None
        Add the sums of the regions of `delf_engine.grid` to those of indexed images, all at unit length over
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
        Exponent p of ``sign(x) |x|^p``, applied to each component; 0.5 as published, 1 changes nothing.
    """

    power: Power


class RerankingConfig(Config):
    """How many candidates of a shortlist are verified; the rest keep their order behind them.

    Attributes
    ----------
    top_n : int
        Candidates verified for each query, at most.
    top_k : int or None
        If given, only the first so many of a ranking matter: a query is done once the candidates that are left
        cannot change them. That can be known only where the ranking score has a limit (`RankingConfig.cap`).
    seconds : float or None
        Time for each query: candidates that are not begun by then stay unverified, behind the verified ones. How
        many that are depends on the machine.
    """

    top_n: Count
    top_k: Count | None = None
    seconds: Positive | None = None


class RankingConfig(Config):
    """By what verified candidates are ordered; equal ones keep their first order.

    Attributes
    ----------
    score : "inliers", "effective", "weighted" or "similarity"
        ``inliers``: the number of inliers, the published rule. ``effective``: of those that lie apart.
        ``weighted``: the sum of similarity^exponent over the inliers. ``similarity``: the same sum over all mutual
        nearest neighbours, without geometry.
    exponent : float
        Exponent of the cosine similarity of a match; negative similarities count as 0.
    blend : float
        What is added to the first three: so many times the sum over all mutual nearest neighbours.
    cap : float or None
        More than this counts as this: two images that surely show the same place are then ranked by their first
        scores, and with a `top_k` the search for better ones can stop.
    """

    score: Literal["inliers", "effective", "weighted", "similarity"]
    exponent: Positive
    blend: Annotated[float, Field(ge=0, le=1e6)]
    cap: Positive | None = None


class Profile(Config):
    """One complete pipeline, as one file under ``configs/`` describes it.

    Attributes
    ----------
    name : str
        Name of the file.
    index : str
        Kind of index that gathers candidates.
    extraction, storage, verification, fine, reranking, ranking : Config
        Options of the stages.
    asmk, kdtree, ivf, bow, vlad, fisher : Config
        Options of each kind of index.
    """

    name: str
    extraction: ExtractionConfig
    storage: StorageConfig
    index: Literal["asmk", "kdtree", "ivf", "bow", "vlad", "fisher"]
    asmk: AsmkConfig
    kdtree: KdTreeConfig
    ivf: IvfConfig
    bow: BowConfig
    vlad: VladConfig
    fisher: FisherConfig
    verification: VerificationConfig
    fine: FineConfig = FineConfig()
    reranking: RerankingConfig
    ranking: RankingConfig


def config_directory() -> Path:
    """Return the directory of the shipped profiles: inside the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def profile_names() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(p.stem for p in config_directory().glob("*.toml") if not p.stem.startswith("train_"))


def load_profile(name: str | os.PathLike[str] = "default") -> Profile:
    """Read a profile by the name of a shipped one (``default``, ``delf``) or by the path of a TOML file.

    Raises
    ------
    ConfigError
        If there is no such profile, or it has an unknown key, a missing key, or a bad value.
    """
    path = _profile_path(name)
    return parse_config(Profile, {"name": path.stem, **read_extended(path)}, where=str(path))


def read_extended(path: Path, *, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a TOML file over the one that its ``extends`` names: a .toml file beside it, or a shipped profile.

    Tables are merged key by key, anything else is replaced.

    Raises
    ------
    ConfigError
        As `read_toml`, or if files extend each other in a circle.
    """
    if path.resolve() in _seen:
        raise ConfigError(f"{path}: 'extends' goes round in a circle")
    values = read_toml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = path.parent / str(base)
    base_path = beside if str(base).endswith(".toml") else _profile_path(str(base))
    return _merged(read_extended(base_path, _seen=(*_seen, path.resolve())), values)


def _profile_path(name: str | os.PathLike[str]) -> Path:
    path = Path(name)
    if path.suffix == ".toml":
        return path
    shipped = config_directory() / f"{name}.toml"
    if not shipped.is_file() or path.name != str(name):
        known = profile_names()
        hint = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        raise ConfigError(
            f"there is no profile {str(name)!r}"
            + (f"; did you mean {hint[0]!r}?" if hint else ".")
            + f" Shipped profiles: {', '.join(known)}; or give the path of a .toml file."
        )
    return shipped


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out
