"""Revisions: which state a store is in, so that what catches up with it knows at once whether and what it missed.

Each transaction that changes a store writes its revision: its number, a random token, and the sequence number that
the next image will get. All tokens are kept, so a revision from before can be told from one of a history that this
store never had, such as that of a copy which went its own way.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from delf_engine.errors import FormatError

_CURRENT = b"revision"
_PAST = b"past "  # and the number of the transaction: its token


@dataclass(frozen=True)
class Revision:
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
    def from_dict(cls, values: Mapping[str, Any]) -> Revision:
        """Return a revision from what `to_dict` gave.

        Raises
        ------
        FormatError
            If it is none.
        """
        try:
            return cls(int(values["commit"]), str(values["token"]), int(values["sequence"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not the revision of a feature store: {values!r}") from error


@dataclass(frozen=True)
class Changes:
    """What has happened to a store since a revision; see `FeatureStore.changes`.

    Attributes
    ----------
    revision : Revision
        Revision of the current state.
    images : int
        Number of images now.
    put : list of str or None
        Ids of the images added or moved to the end since, in order. None: not known.
    foreign : bool
        Whether the revision asked for is of a history that this store never had.
    """

    revision: Revision
    images: int
    put: list[str] | None
    foreign: bool


def current_revision(txn: Any, table: Any) -> Revision:
    """Return the revision of the state that a transaction sees; a `FormatError` if it is damaged or missing."""
    value = txn.get(_CURRENT, db=table) or b""
    try:
        commit, token, sequence = value.split(b" ")
        return Revision(int(commit), token.decode(), int(sequence))
    except ValueError as error:
        raise FormatError(f"the revision of the feature store is damaged: {value!r}") from error


def has_been_at(txn: Any, table: Any, revision: Revision) -> bool:
    """Whether the store was in this state once."""
    return bool(txn.get(_past(revision.commit), db=table) == revision.token.encode())


def write_revision(txn: Any, table: Any, sequence: int) -> None:
    """Write the revision of the state that a writing transaction is about to commit."""
    token = secrets.token_hex(8).encode()
    txn.put(_CURRENT, b"%d %s %d" % (txn.id(), token, sequence), db=table)
    txn.put(_past(txn.id()), token, db=table)


def _past(commit: int) -> bytes:
    return _PAST + commit.to_bytes(8, "big")
