"""Mining: each photograph of an engine is searched for among the others; what shows the same place is a pair."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.engine import Engine
from delf_engine.errors import ConfigError, DataError
from delf_engine.mining.geometry import composed, fit_fine, fit_pair, near_duplicate
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch
from delf_engine.reranking.confirming import confirm_rankings
from delf_engine.support.threads import check_threads, in_threads
from delf_engine.training.sources.mined import MinedPair, places
from delf_engine.verification import Verification

#: Fewer pairs than this are less than a batch of ``configs/train_delf_self.toml`` draws.
FEW_PAIRS = 12
#: Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

Rankings = Mapping[str, Sequence[RankedCandidate]]
Fitted = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # homography and points

# What is trained on are the matches that agree with the homography: a pair must have this share of the inliers
# that a decision without probabilities asks for. Details of pairs with fewer inliers need not be asked.
_POINTS = 0.75


@dataclass(frozen=True, eq=False)
class Mined:
    """Pairs that were found; as text, a summary for people.

    Attributes
    ----------
    pairs : tuple of MinedPair
        In the order of the photographs; behind them those of two hops, at most as many again.
    alike : tuple of (str, str)
        Photographs of different folders and places that have matches enough to be taken for one place.
    hops : int
        Pairs that only a third photograph joins.
    photographs : tuple of str
        That were searched.
    compared : int
        Pairs that were verified.
    proposed : int
        Of these had enough inliers to train on, and were asked for details.
    same : int
        Of these show the same place, as all evidence says.
    duplicates : int
        Pairs left out as near-duplicates.
    uneven : int
        Pairs left out because too few of their matches lie on one plane.
    surplus : int
        Pairs left out because there were more than wanted.
    """

    pairs: tuple[MinedPair, ...]
    alike: tuple[tuple[str, str], ...]
    photographs: tuple[str, ...]
    hops: int
    compared: int
    proposed: int
    same: int
    duplicates: int
    uneven: int
    surplus: int

    @property
    def alone(self) -> tuple[str, ...]:
        """Photographs in no pair."""
        paired = {name for pair in self.pairs for name in (pair.a, pair.b)}
        return tuple(name for name in self.photographs if name not in paired)

    @property
    def groups(self) -> tuple[int, ...]:
        """How many photographs each connected group has, the largest first."""
        return tuple(sorted(Counter(places(self.pairs).values()).values(), reverse=True))

    @property
    def left_out(self) -> str:
        """How many pairs were left out and why, in words; empty if none was."""
        counts = (self.duplicates, self.uneven, self.surplus)
        reasons = zip(counts, ("near-duplicates", "not on one plane", "more than wanted"), strict=True)
        said = ", ".join(f"{count} {reason}" for count, reason in reasons if count)
        return f"; left out: {said}" if said else ""

    def __str__(self) -> str:
        largest = ", ".join(map(str, self.groups[:8])) + (", ..." if len(self.groups) > 8 else "")
        lines = [
            f"{len(self.photographs)} photographs, {self.compared} pairs verified",
            f"{self.proposed} of them have matches enough, {self.same} of these show the same place",
            f"{len(self.pairs)} pairs, {self.hops} of them through a third photograph{self.left_out}",
            f"{len(self.alike)} pairs of different places that look alike",
            f"{len(self.groups)} connected groups, photographs in each: {largest}",
            f"{len(self.alone)} photographs without a partner",
        ]
        if len(self.pairs) < FEW_PAIRS:
            lines.append(
                f"too few to train on: recipe delf_self draws {FEW_PAIRS} pairs a batch; add photographs of the "
                "same places"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "photographs": len(self.photographs),
            "compared": self.compared,
            "proposed": self.proposed,
            "same": self.same,
            "pairs": len(self.pairs),
            "two_hops": self.hops,
            "alike": len(self.alike),
            "near_duplicates": self.duplicates,
            "not_on_one_plane": self.uneven,
            "surplus": self.surplus,
            "groups": list(self.groups),
            "alone": list(self.alone),
            "few": len(self.pairs) < FEW_PAIRS,
        }


def mine_pairs(
    engine: Engine,
    photographs: Sequence[str],
    *,
    per_photo: int = 20,
    max_pairs: int = 1000,
    keep_duplicates: bool = False,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = lambda *_: None,
) -> Mined:
    """Find pairs of photographs that show the same place.

    Each photograph is searched for in the engine's index, its best candidates are verified, once a pair. Pairs
    with inliers enough get fine evidence, where the engine stores it or their photographs can be read. Those whose
    verdict is "same" get a homography of their own, and so do pairs that a third photograph joins. Those of
    different folders of which no detail agrees are look-alikes, unless a chain of pairs joins them. The result has
    the same bits with any number of workers.

    Parameters
    ----------
    engine : Engine
    photographs : sequence of str
        Ids to mine among, at least 2; the engine may hold others.
    per_photo : int
        Candidates verified for each photograph.
    max_pairs : int
        Pairs to keep: see `strongest`. As many of two hops, and of look-alikes, come on top at most.
    keep_duplicates : bool
        Keep pairs of which one photograph is the other, resized or recompressed.
    seed : int
        Of RANSAC, 0 to 2^31 - 1.
    workers : int or None
        Processes that verify; None: this one alone for few pairs, all cores for many.
    progress : callable
        See `Progress`.

    Raises
    ------
    DataError
        If there are fewer than 2 photographs.
    ConfigError
        If an option is out of range.
    UnknownIdError
        If the engine does not hold one of the photographs.
    """
    if per_photo < 1 or max_pairs < 1:
        raise ConfigError(f"per_photo and max_pairs must be at least 1, got {per_photo} and {max_pairs}")
    names = tuple(dict.fromkeys(photographs))
    if len(names) < 2:
        raise DataError(f"pairs need 2 photographs at least, got {len(names)}")
    least = math.ceil(_POINTS * engine.manifest.profile.verification.min_inliers)
    shortlists = _candidates(engine, names, per_photo, progress)
    top_n = max(1, *map(len, shortlists.values()))
    options = engine.state.rerank_options(top_n=top_n, seed=seed, workers=workers)
    rankings = rerank_batch(
        engine.store,
        shortlists,
        engine.store,
        options,
        progress=partial(progress, "verifying"),
    )
    proposed = {a: [hit for hit in hits if (hit.inliers or 0) >= least] for a, hits in rankings.items()}
    asked = replace(options, confirm=top_n)
    good: dict[tuple[str, str], Verification] = {}
    unlike: dict[tuple[str, str], int] = {}
    for a, hits in _confirmed(engine, proposed, asked, progress).items():
        found = {(a, hit.id): hit.verification for hit in hits if hit.verification is not None}
        good |= {pair: each for pair, each in found.items() if each.same}
        unlike |= {pair: each.inliers for pair, each in found.items() if _unlike(each)}
    pairs, duplicates = _fitted(engine, good, least, keep_duplicates, seed, check_threads(workers))
    kept = strongest({pair: found.inliers for pair, found in good.items() if pair in pairs}, max_pairs)
    place = {name: number for number, name in enumerate(names)}
    kept.sort(key=lambda pair: (place[pair[0]], place[pair[1]]))
    direct = [pairs[pair] for pair in kept]
    hops = _two_hops(engine, direct, {*good, *unlike}, least, place)
    through = strongest({pair: len(found.points) for pair, found in hops.items()}, max_pairs)
    return Mined(
        pairs=(*direct, *(hops[pair] for pair in through)),
        alike=tuple(strongest(_apart(engine, unlike, good), max_pairs)),
        photographs=names,
        hops=len(through),
        compared=sum(hit.verification is not None for hits in rankings.values() for hit in hits),
        proposed=sum(map(len, proposed.values())),
        same=len(good),
        duplicates=duplicates,
        uneven=len(good) - len(pairs) - duplicates,
        surplus=len(pairs) - len(kept),
    )


def _candidates(engine: Engine, names: Sequence[str], per_photo: int, progress: Progress) -> dict[str, list[str]]:
    """Return for each photograph those behind it in `names` that it, or they, found among the best `per_photo`.

    So each pair stands once, from the earlier photograph to the later one, whichever of them found the other.
    """
    place = {name: number for number, name in enumerate(names)}
    others = len(engine) - len(place)
    found: dict[str, set[str]] = {name: set() for name in names}
    for done, name in enumerate(names, 1):
        hits = engine.search(engine.get(name), top_k=per_photo + 1 + max(0, others), top_n=0)
        for other in [hit.id for hit in hits if hit.id != name and hit.id in place][:per_photo]:
            first, second = sorted((name, other), key=place.__getitem__)
            found[first].add(second)
        progress("searching", done, len(names))
    return {name: sorted(partners, key=place.__getitem__) for name, partners in found.items()}


def _confirmed(
    engine: Engine, proposed: Rankings, options: RerankOptions, progress: Progress
) -> dict[str, list[RankedCandidate]]:
    """Give all hits fine evidence, several photographs at a time."""
    fine_of, names = engine.state.fine_of, list(proposed)

    def confirmed(number: int) -> list[RankedCandidate]:
        name = names[number]
        return confirm_rankings({name: proposed[name]}, fine_of, fine_of, options)[name]

    done, total = partial(progress, "looking at details"), len(names)
    found = in_threads(confirmed, total, check_threads(options.workers), lambda count: done(count, total))
    return dict(zip(names, found, strict=True))


def _apart(
    engine: Engine, unlike: Mapping[tuple[str, str], int], good: Collection[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """Return the inliers of the look-alikes of different folders that no chain of good pairs joins."""
    of = places([MinedPair(a, b, np.eye(3), np.zeros((1, 4))) for a, b in good])

    def where(name: str) -> tuple[str, int | str]:
        return os.path.dirname(engine.path_of(name)), of.get(os.path.realpath(name), name)

    return {
        (a, b): inliers
        for (a, b), inliers in unlike.items()
        if all(one != other for one, other in zip(where(a), where(b), strict=True))
    }


def _unlike(found: Verification) -> bool:
    """Tell whether details deny what coarse matches say."""
    return found.fine is not None and found.fine.conclusive and not found.fine.details


def strongest(inliers: dict[tuple[str, str], int], count: int) -> list[tuple[str, str]]:
    """Choose `count` pairs so that each photograph keeps its best ones: first, second, ... of all photographs.

    Inliers alone would choose the easiest pairs of the most photographed place. Earlier pairs go before later ones
    of as many inliers.
    """
    ordered = sorted(inliers, key=lambda pair: -inliers[pair])
    taken: Counter[str] = Counter()
    rounds = {}
    for pair in ordered:
        rounds[pair] = min(taken[pair[0]], taken[pair[1]])
        taken.update(pair)
    return sorted(ordered, key=rounds.__getitem__)[:count]


def _fitted(
    engine: Engine,
    good: dict[tuple[str, str], Verification],
    least: int,
    keep_duplicates: bool,
    seed: int,
    threads: int,
) -> tuple[dict[tuple[str, str], MinedPair], int]:
    """Fit a homography to each pair; return the pairs worth keeping, and how many were near-duplicates."""
    pairs: dict[tuple[str, str], MinedPair] = {}
    duplicates = 0
    names = list(good)
    fits = in_threads(lambda n: _fit(engine, *names[n], good[names[n]], least, seed), len(names), threads)
    for (a, b), fit in zip(names, fits, strict=True):
        if fit is None:
            continue
        homography, points = fit
        if not keep_duplicates and near_duplicate(homography, good[a, b], engine.get(a), engine.get(b)):
            duplicates += 1
        else:
            pairs[a, b] = MinedPair(a, b, homography, np.round(points, 3))
    return pairs, duplicates


def _fit(engine: Engine, a: str, b: str, found: Verification, least: int, seed: int) -> Fitted | None:
    """Return the homography of two photographs and `least` points at least; by details where they agree on one."""
    profile = engine.manifest.profile
    plane = None if found.fine is None else found.fine.transform
    fit: Fitted | None = None
    if plane is not None:
        details_a, details_b = engine.state.fine_of(a), engine.state.fine_of(b)
        if details_a is not None and details_b is not None:
            fit = fit_fine(plane, details_a, details_b, profile.fine)
    if fit is None or len(fit[1]) < least:
        fit = fit_pair(engine.get(a), engine.get(b), found, profile.verification, seed=seed)
    return fit if fit is not None and len(fit[1]) >= least else None


def _two_hops(
    engine: Engine,
    pairs: Sequence[MinedPair],
    known: Collection[tuple[str, str]],
    least: int,
    place: Mapping[str, int],
) -> dict[tuple[str, str], MinedPair]:
    """Return pairs that a third photograph joins and verification did not judge, by the one that carries most."""
    sizes: dict[str, tuple[int, int]] = {}
    near: dict[str, dict[str, Fitted]] = {}  # from a photograph to each of its partners
    for pair in pairs:
        back = np.linalg.inv(pair.homography)
        near.setdefault(pair.a, {})[pair.b] = pair.homography, pair.points
        near.setdefault(pair.b, {})[pair.a] = back / back[2, 2], pair.points[:, [2, 3, 0, 1]]
        sizes |= {name: engine.get(name).image_size for name in (pair.a, pair.b) if name not in sizes}
    found: dict[tuple[str, str], MinedPair] = {}
    for b, partners in near.items():
        for a, c in itertools.combinations(sorted(partners, key=place.__getitem__), 2):
            if (a, c) in known:
                continue
            fit = composed(near[a][b], partners[c], (sizes[a], sizes[b], sizes[c]))
            most = len(found[a, c].points) if (a, c) in found else least - 1
            if fit is not None and len(fit[1]) > most:
                found[a, c] = MinedPair(a, c, fit[0], np.round(fit[1], 3))
    return found
