"""What became of a shortlist: where each image stood before re-ranking and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delf_engine.errors import DataError

__all__ = ["FALL", "NEW", "RISE", "STAY", "Move", "moves"]

RISE, FALL, STAY, NEW = "▲", "▼", "=", "new"


@dataclass(frozen=True)
class Move:
    """A place in one ranking and, if there is one, in the other; both count from 1.

    Attributes
    ----------
    before, after : int or None
        None: it is not there.
    """

    before: int | None
    after: int | None

    @property
    def rise(self) -> int:
        """Places gained; negative: lost; 0 if it stayed, or is missing from one of the rankings."""
        return 0 if self.before is None or self.after is None else self.before - self.after

    def __str__(self) -> str:
        if self.before is None:
            return NEW
        if self.rise == 0:
            return STAY
        return f"{RISE} {self.rise}" if self.rise > 0 else f"{FALL} {-self.rise}"


def moves(before: Sequence[str], after: Sequence[str]) -> dict[str, Move]:
    """Return for every id of two rankings where it stands in them.

    Raises
    ------
    DataError
        If an id stands twice in a ranking.
    """
    places = []
    for name, ids in (("before", before), ("after", after)):
        place = {image_id: number for number, image_id in enumerate(ids, start=1)}
        if len(place) != len(ids):
            doubled = next(image_id for number, image_id in enumerate(ids, 1) if place[image_id] != number)
            raise DataError(f"the ranking {name} re-ranking holds {doubled!r} twice")
        places.append(place)
    return {image_id: Move(places[0].get(image_id), places[1].get(image_id)) for image_id in [*before, *after]}
