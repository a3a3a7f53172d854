"""`IdTable`: many image ids in four arrays that can be memory-mapped and searched as they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["IdTable"]


class IdTable:
    """Image ids by row, and rows by image id, without a dictionary: opening costs nothing at any size.

    Parameters
    ----------
    arrays : mapping
        ``id_text`` (T,) uint8, the ids in UTF-8 one after the other; ``id_offsets`` (N + 1,) int64, where each
        begins; ``id_hashes`` (N,) uint64, ascending; ``id_rows`` (N,) int32, the row that has each hash.
    """

    DTYPES: Mapping[str, str] = {"id_text": "|u1", "id_offsets": "<i8", "id_hashes": "<u8", "id_rows": "<i4"}

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._text, self._offsets, self._hashes, self._rows = (arrays[name] for name in self.DTYPES)

    @staticmethod
    def build(ids: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays of a table of `ids`, which must differ from each other."""
        texts = [_encoded(image_id) for image_id in ids]
        offsets = np.zeros(len(texts) + 1, "<i8")
        np.cumsum(np.array([len(text) for text in texts], "<i8"), out=offsets[1:])
        hashes = np.array([_hash(text) for text in texts], "<u8")
        rows = np.argsort(hashes, kind="stable").astype("<i4")
        return {
            "id_text": np.frombuffer(b"".join(texts), np.uint8),
            "id_offsets": offsets,
            "id_hashes": hashes[rows],
            "id_rows": rows,
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> str:
        return bytes(self._text[int(self._offsets[row]) : int(self._offsets[row + 1])]).decode(
            "utf-8", "surrogatepass"
        )

    def many(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """Return the id of each row, several times faster than one by one; rows are (M,), all of them there."""
        text = self._text.data
        begins, ends = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
        return [str(text[a:b], "utf-8", "surrogatepass") for a, b in zip(begins, ends, strict=True)]

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def find(self, image_id: str) -> int | None:
        """Return the row of an id, or None."""
        value = np.uint64(_hash(_encoded(image_id)))
        at = int(np.searchsorted(self._hashes, value))
        while at < len(self) and self._hashes[at] == value:
            row = int(self._rows[at])
            if self[row] == image_id:
                return row
            at += 1
        return None

    @staticmethod
    def hashes(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
        """Return the hash of each id, (M,) uint64, for `find_many`."""
        return np.array([_hash(_encoded(image_id)) for image_id in ids], np.uint64)

    def find_many(self, ids: Sequence[str], hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the row of each id, (M,) int64, -1 where there is none; faster than to `find` one by one."""
        rows = np.full(len(ids), -1, np.int64)
        if len(self):
            at = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
            for i in np.flatnonzero(self._hashes[at] == hashes):
                row = self.find(ids[int(i)])
                rows[i] = -1 if row is None else row
        return rows


def _encoded(image_id: str) -> bytes:
    return image_id.encode("utf-8", "surrogatepass")  # undecodable file names hold lone surrogates


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
