"""The options of re-ranking, which single queries, batches, second rounds and engines share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from delf_engine.config import (
    FineConfig,
    Profile,
    RankingConfig,
    RerankingConfig,
    VerificationConfig,
    load_profile,
    parse_config,
)
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.verification import BatchVerifier, Calibration, PairVerifier

OnMissing: TypeAlias = Literal["warn", "raise", "ignore"]


@dataclass(frozen=True)
class RerankOptions:
    """How shortlists are re-ranked: everything but the data.

    Attributes
    ----------
    reranking : RerankingConfig
        How many candidates are verified, and what may stop that earlier.
    verification : VerificationConfig
    ranking : RankingConfig
        What the ranking score is; left out, that of the default profile.
    seed : int
        Of every verification. Results have the same bits in any order and with any number of workers, and each
        pair's are those of `verify_features`.
    calibration : Calibration or None
        Gives verifications their probability and their verdict. Only hits with fine evidence are ordered by it.
    workers : int or None
        Threads, or processes where an estimator holds Python's interpreter lock. None takes one a usable core, and
        the calling thread alone for few pairs. None are used where a card verifies.
    on_missing : "warn", "raise" or "ignore"
        What to do about a query or candidate without features. It is left unverified, behind the verified ones,
        and the rest goes on; "warn" gives one `DelfEngineWarning` at the end.
    distances : bool
        What stands beside the ids of shortlists are distances, of which lower is better: they get the opposite
        sign. It is never guessed.
    confirm : int
        The first so many of each query get fine evidence, where there are fine features, and are ordered by the
        probability that follows, equal ones by their ranking score.
    fine : FineConfig
        How fine features are matched.
    device : str
        "cpu", or the card that verifies many pairs at once (`delf_engine.verification.BatchVerifier`): "cuda",
        "cuda:1", ..., or "auto", the first if there is one. Where the verification is not affine, exhaustive and
        at "float32", the CPU does it all the same. Fine features are matched there, too.

    Raises
    ------
    ConfigError
        If `workers` is below 1, `confirm` below 0, or `on_missing` another word.
    """

    reranking: RerankingConfig
    verification: VerificationConfig
    ranking: RankingConfig = field(default_factory=lambda: load_profile("default").ranking)
    seed: int = 0
    calibration: Calibration | None = None
    workers: int | None = None
    on_missing: OnMissing = "warn"
    distances: bool = False
    confirm: int = 0
    fine: FineConfig = field(default_factory=FineConfig)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if self.confirm < 0:
            raise ConfigError(f"confirm must be at least 0, got {self.confirm}")
        if self.on_missing not in ("warn", "raise", "ignore"):
            raise ConfigError(f"on_missing must be 'warn', 'raise' or 'ignore', got {self.on_missing!r}")

    @classmethod
    def of(
        cls,
        profile: Profile,
        *,
        top_n: int | None = None,
        top_k: int | None = None,
        seconds: float | None = None,
        **more: Any,
    ) -> RerankOptions:
        """Return the options of a profile but for those given: of `RerankingConfig`, and `more` of this class.

        Raises
        ------
        ConfigError
            If one is out of range.
        """
        given = {"top_n": top_n, "top_k": top_k, "seconds": seconds}
        values = {**profile.reranking.model_dump(), **{name: v for name, v in given.items() if v is not None}}
        reranking = parse_config(RerankingConfig, values, where="re-ranking")
        return cls(reranking, profile.verification, profile.ranking, fine=profile.fine, **more)

    def in_parts(self) -> RerankOptions:
        """Return these; a `ConfigError` if what is verified depends on others, on time, or on a card."""
        if self.reranking.seconds is not None or None not in (self.reranking.top_k, self.ranking.cap):
            raise ConfigError("re-ranking that stops early (seconds, top_k with a cap) is not done in parts")
        if self.device != "cpu":
            raise ConfigError(f"device={self.device!r}: parts verify their pairs on CPUs; leave it out")
        return self

    def verifier(self, query: LocalFeatures) -> PairVerifier:
        """Return the query, made ready for all its pairs."""
        return PairVerifier(query, config=self.verification, exponent=self.ranking.exponent, seed=self.seed)

    def batch_verifier(self) -> BatchVerifier | None:
        """Return what verifies pairs of many queries at once, on a card; None if the CPU verifies."""
        if self.device == "cpu":
            return None
        verifier = BatchVerifier(
            config=self.verification, exponent=self.ranking.exponent, seed=self.seed, device=self.device
        )
        return verifier if verifier.on_card else None
