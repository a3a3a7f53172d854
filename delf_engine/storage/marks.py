"""Marks: which state a store is in, so that what follows it knows at once whether and what it has missed.

Each transaction that changes a store writes a mark: its number, a random token, and the sequence number that the
next image will get. All tokens are kept, so a mark from before can be told from one of a history that this store
never had, such as that of a copy which went its own way. Versions that keep no marks leave one whose number is not
that of the last transaction: from then on nothing is known of the states before.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from delf_engine.errors import FormatError

__all__ = ["Changes", "StoreMark", "current_mark", "has_been_at", "next_sequence", "stamp"]

_MARK = b"mark"
_PAST = b"past "  # and the number of the transaction: its token


@dataclass(frozen=True)
class StoreMark:
    """A committed state of a store.

    Attributes
    ----------
    commit : int
        Number of the transaction.
    token : str
        Its random token.
    sequence : int
        The number that the next image will get: images put after this state have this one or a higher one.
    """

    commit: int
    token: str
    sequence: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StoreMark:
        """Return a mark from what `to_dict` gave.

        Raises
        ------
        FormatError
            If it is none.
        """
        try:
            return cls(int(values["commit"]), str(values["token"]), int(values["sequence"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{values!r} is not the mark of a feature store") from error


@dataclass(frozen=True)
class Changes:
    """What has happened to a store since a mark; see `FeatureStore.changes`.

    Attributes
    ----------
    mark : StoreMark or None
        Of the state now. None: it was last written by a version that keeps no marks.
    images : int
        Number of images now.
    put : list of str or None
        Ids of the images added or moved to the end since, in order. None: not known.
    foreign : bool
        Whether the mark is of a history that this store never had.
    """

    mark: StoreMark | None
    images: int
    put: list[str] | None
    foreign: bool


def current_mark(txn: Any, table: Any, commit: int) -> StoreMark | None:
    """Return the mark of the state with number `commit`, or None where it was written without one."""
    mark = _last(txn, table)
    return mark if mark is not None and mark.commit == commit else None


def has_been_at(txn: Any, table: Any, mark: StoreMark) -> bool:
    """Whether the store was in this state once."""
    return txn.get(_past(mark.commit), db=table) == mark.token.encode()


def next_sequence(txn: Any, table: Any, last: int) -> int:
    """Return the number of the next image, where `last` is the highest in use: never one that was used before."""
    mark = _last(txn, table)
    return last + 1 if mark is None else max(mark.sequence, last + 1)


def stamp(txn: Any, table: Any, sequence: int) -> None:
    """Mark the state that a writing transaction is about to commit."""
    if current_mark(txn, table, txn.id() - 1) is None:
        _forget(txn, table)
    token = secrets.token_hex(8).encode()
    value = b"%d %s %d" % (txn.id(), token, sequence)
    txn.put(_MARK, value, db=table)
    txn.put(_past(txn.id()), token, db=table)


def _last(txn: Any, table: Any) -> StoreMark | None:
    value = txn.get(_MARK, db=table)
    if value is None:
        return None
    try:
        commit, token, sequence = value.split(b" ")
        return StoreMark(int(commit), token.decode(), int(sequence))
    except ValueError as error:
        raise FormatError(f"the mark of the feature store is damaged: {value!r}") from error


def _past(commit: int) -> bytes:
    return _PAST + commit.to_bytes(8, "big")


def _forget(txn: Any, table: Any) -> None:
    with txn.cursor(db=table) as cursor:
        while cursor.set_range(_PAST) and cursor.key().startswith(_PAST):
            cursor.delete()
