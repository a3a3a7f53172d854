"""Profiles: every constant of a pipeline in one file under ``configs/``, read into one typed object.

A profile is a TOML file. ``extends = "default"`` takes everything from another profile and overrides what the
file names. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from delf_engine.config.base import Config, Count, Positive
from delf_engine.config.encodings import BowConfig, FisherConfig, VladConfig
from delf_engine.config.neighbours import IvfConfig, KdTreeConfig
from delf_engine.config.verifying import RankingConfig, RerankingConfig, VerificationConfig
from delf_engine.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "AsmkConfig",
    "BowConfig",
    "Config",
    "ExtractionConfig",
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


class ExtractionConfig(Config):
    """How features are extracted.

    Attributes
    ----------
    scales : tuple of float
        Pyramid scales, relative to the input after `max_image_size`.
    max_image_size : int or None
        Photographs whose longer side exceeds this many pixels are shrunk to it first; smaller ones stay.
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
        Where nothing is said it is float32, as it was before it could be chosen.
    fill_scales : tuple of float
        Finer scales for small images and crops: taken in order, each only while the pyramid so far has fewer
        than `max_features` cells.
    reduced_decoding : bool
        Decode a JPEG at 1/2, 1/4 or 1/8 of its size where its finest level needs no more: faster for photographs
        much larger than `max_image_size`, features close to those of the whole, not the same. Crops are decoded
        whole.
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
        Exponent of the selectivity function sign(s) |s|^alpha.
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
        `delf_engine.index.grid`.

    Notes
    -----
    What published variants set is written down in `delf_engine.index.asmk.index`.
    """

    image_assignments: Count
    query_assignments: Count
    alpha: Positive
    threshold: Annotated[float, Field(ge=-1, le=1)]
    idf: bool
    assignment: Literal["exact", "fast"]
    divisor: Literal["bits", "padded"]
    regions: Literal["grid"] | None


class Profile(Config):
    """One complete pipeline, as one file under ``configs/`` describes it."""

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
    reranking: RerankingConfig
    ranking: RankingConfig


ConfigT = TypeVar("ConfigT", bound=Config)


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


def parse_config(kind: type[ConfigT], values: Mapping[str, Any], *, where: str) -> ConfigT:
    """Validate `values` as a `kind`; errors name `where`, the key, and the nearest known key.

    Raises
    ------
    ConfigError
        With one line for each problem.
    """
    try:
        return kind.model_validate(_tuples(values))
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; the value ``"none"`` is None.

    Raises
    ------
    ConfigError
        If it cannot be read or is not valid TOML.
    """
    try:
        return dict(_nulls(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


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


def _tuples(value: Any) -> Any:
    """Turn lists into tuples, which TOML and JSON do not know."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(item) for item in value)
    return value


def _nulls(value: Any) -> Any:
    """Turn the word "none" into None, for which TOML has no value."""
    if isinstance(value, Mapping):
        return {key: _nulls(item) for key, item in value.items()}
    return None if value == "none" else value


def _explain(kind: type[Config], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']}" if key else str(problem["msg"])
    model: Any = kind
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    hint = difflib.get_close_matches(location[-1], model.model_fields, n=1, cutoff=0)
    return f"unknown key {key!r}; the nearest known one is {hint[0]!r}"
