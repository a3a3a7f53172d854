"""Many pairs verified at once, on a card: the answers of `PairVerifier`, to the inlier but for rounding.

The default way, affine maps by the exhaustive estimator, runs on the device for all pairs of a batch together.
Pairs that may wear the same overlay are looked at again here, and where they do, or where another way is asked
for, `PairVerifier` answers. Of fine evidence the matches are found there, those of the CPU to the bit. What the
card has no memory for, even by itself, is left to the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.config import FineConfig, VerificationConfig
from delf_engine.features import LocalFeatures
from delf_engine.support.threads import lock_across_forks, torch_after_fork
from delf_engine.verification.fine import FineEvidence, FinePair
from delf_engine.verification.geometry import turned_round
from delf_engine.verification.order import goes_first
from delf_engine.verification.overlays import overlay_matches
from delf_engine.verification.result import Verification
from delf_engine.verification.verify import PairVerifier, answered

if TYPE_CHECKING:
    import torch

    from delf_engine.verification.calibration import Calibration
    from delf_engine.verification.shards import BatchAnswers, Shard

Pair: TypeAlias = tuple[LocalFeatures, LocalFeatures]

#: Kinds of devices that compute in batches; a CPU could, too, but `PairVerifier` takes a thirtieth of the time.
CARDS = {"cuda"}
_WAY = "affine", "exhaustive", "float32"

#: What is kept on each device, by the dimension of descriptors; one call at a time uses it.
_shards: dict[tuple[torch.device, int], Shard] = {}
_lock = lock_across_forks()


def verify_pairs(
    pairs: Sequence[Pair],
    *,
    config: VerificationConfig | None = None,
    exponent: float | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
    device: str = "auto",
) -> list[Verification]:
    """Do what `verify_features` does, for many pairs, at once if there is a card.

    Parameters
    ----------
    pairs : sequence of (LocalFeatures, LocalFeatures)
    config, exponent, seed, calibration
        As of `verify_features`; errors are the same.
    device : str
        As of `BatchVerifier`.
    """
    found = BatchVerifier(config=config, exponent=exponent, seed=seed, device=device)(pairs)
    return found if calibration is None else [calibration.judged(each) for each in found]


def evidence_of_pairs(
    pairs: Sequence[Pair], *, config: FineConfig | None = None, seed: int = 0, device: str = "cpu"
) -> list[FineEvidence]:
    """Do what `fine_evidence` does, for many pairs, which are matched at once if there is a card.

    Parameters
    ----------
    pairs : sequence of (LocalFeatures, LocalFeatures)
        Fine features.
    config, seed, device
        As of `fine_evidence` and `BatchVerifier`; errors are theirs.
    """
    config = config or FineConfig()
    ready = [FinePair.of(a, b, config) for a, b in pairs]
    card = None if device == "cpu" else _card(device)
    if card is None or len({side.dim for one in ready for side in one[:2]}) != 1:
        return [one.counted(one.matches(), seed)[0] for one in ready]
    from delf_engine.matching.batched import match_codes
    from delf_engine.verification.shards import in_batches

    match = partial(match_codes, ratio=config.ratio, device=card)
    with _lock:
        torch_after_fork()
        found = in_batches(lambda some: match([one.prepared() for one in some]), ready, FinePair.matches, card)
    return [one.counted(rows, seed)[0] for one, rows in zip(ready, found, strict=True)]


class BatchVerifier:
    """Verifies many pairs at once on a card, by an affine map, the exhaustive estimator and float32 descriptors.

    Matches are those of `PairVerifier`; inliers may be off by one where numbers are rounded otherwise. Without a
    card, or in other ways, it is `PairVerifier` that verifies. Features stay on the card as long as the objects
    live, and while those of one descriptor dimension take an eighth of its memory at most.

    Parameters
    ----------
    config, exponent, seed
        As of `PairVerifier`.
    device : str
        "cuda", "cuda:1", ...; "auto", a card if there is one; or "cpu".

    Raises
    ------
    ConfigError
        As `verify_features`, and if there is no such device.
    """

    def __init__(
        self,
        *,
        config: VerificationConfig | None = None,
        exponent: float | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        card = _card(device)
        self._one = partial(PairVerifier, config=config, exponent=exponent, seed=seed)
        nothing = LocalFeatures.empty((1, 1), 1)
        example = self._one(nothing)
        example(nothing)  # refuses what is out of range
        self._config, self._exponent = config, _ = example.config, example.exponent
        self._card = card if (config.model, config.estimator, config.precision) == _WAY else None

    @property
    def on_card(self) -> bool:
        """Whether there is a card, and it is of use for this config."""
        return self._card is not None

    def __call__(self, pairs: Sequence[Pair]) -> list[Verification]:
        """Return the verification of each pair, A and B.

        Raises
        ------
        MismatchError
            If the descriptors of a pair have different dimensions.
        """
        if self._card is None:
            runs = (list(run) for _, run in groupby(pairs, lambda pair: id(pair[0])))
            return [found for run in runs for found in map(self._one(run[0][0]), (b for _, b in run))]
        from delf_engine.verification.shards import in_batches

        out: dict[int, Verification] = {}
        by_dim: dict[int, list[int]] = {}
        for i, (a, b) in enumerate(pairs):
            if a.dim != b.dim:
                self._one(a)(b)  # refuses it
            by_dim.setdefault(a.dim, []).append(i)
        with _lock:
            torch_after_fork()
            for some in by_dim.values():
                some.sort(key=lambda i: max(map(len, pairs[i])))  # little is padded
                ordered, alone = [pairs[i] for i in some], lambda pair: self._one(pair[0])(pair[1])
                out.update(zip(some, in_batches(self._verified, ordered, alone, self._card), strict=True))
        return [out[i] for i in range(len(pairs))]

    def _verified(self, pairs: Sequence[Pair]) -> list[Verification]:
        """Verify a batch of pairs of one dimension on the card."""
        from delf_engine.verification.shards import Shard, verify_batch

        assert self._card is not None
        key = self._card, pairs[0][0].dim
        shard = _shards.get(key) or _shards.setdefault(key, Shard(*key))
        places = shard.places([image for pair in pairs for image in pair])
        where = list(zip(places[::2], places[1::2], strict=True))
        turned = [
            self._config.mutual and (q.room < p.room if q.room != p.room else goes_first(b, a))
            for (a, b), (p, q) in zip(pairs, where, strict=True)
        ]
        ordered = [(b, a) if turn else (a, b) for (a, b), turn in zip(pairs, turned, strict=True)]
        where = [(q, p) if turn else (p, q) for (p, q), turn in zip(where, turned, strict=True)]
        found = verify_batch(shard, ordered, where, self._config, self._exponent)
        return self._answers(found, ordered, np.array(turned))

    def _answers(
        self, found: BatchAnswers, pairs: Sequence[Pair], turned: npt.NDArray[np.bool_]
    ) -> list[Verification]:
        """Return what was found of each pair in its order, or what is if both images wear an overlay."""
        of = found.inliers.nonzero()[0]
        matches, similarities = found.matches[found.inliers], found.similarities[found.inliers]
        order = np.lexsort((matches[np.arange(len(of)), turned[of].astype(int)], of))  # as `answered` has it
        matches = np.where(turned[of, None], matches[:, ::-1], matches)[order]
        similarities, transforms, other = similarities[order], found.transform.copy(), turned & found.found
        transforms[other] = turned_round("affine", transforms[other].transpose(1, 2, 0)).transpose(2, 0, 1)
        for each in (matches, similarities, transforms):
            each.flags.writeable = False  # so that answers share them and copy nothing
        numbers = found.inliers.sum(1).cumsum(), found.found, found.own.sum(1), found.similarity
        columns = [each.tolist() for each in (*numbers, found.effective, found.error)]
        out, start = [], 0
        for i, (end, fitted, putative, similarity, effective, error) in enumerate(zip(*columns, strict=True)):
            part, start, own, inliers = slice(start, end), end, found.own[i], found.inliers[i]
            if found.suspect[i] and overlay_matches(*pairs[i], found.matches[i][own], inliers[own]) is not None:
                a, b = pairs[i][:: -1 if turned[i] else 1]
                out.append(self._one(a)(b))
                continue
            answer = answered(
                self._config,
                transforms[i] if fitted else None,
                matches[part],
                similarities[part],
                turned=False,  # already
                effective_inliers=effective,
                error_px=error if fitted else None,
                putative=putative,
                similarity=similarity,
                exponent=self._exponent,
            )
            out.append(answer)
        return out


def _card(name: str) -> torch.device | None:
    """Return the device of this name; None if it does not compute in batches."""
    from delf_engine.model.device import choose_device

    device = choose_device(name)
    return device if device.type in CARDS else None
