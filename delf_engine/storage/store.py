"""`FeatureStore`: the local features of many images in one LMDB directory.

Three tables and the metadata live in one LMDB environment, so that every batch is one transaction: `keys` (image
id to sequence number), `names` (sequence number to image id, which keeps the order of insertion) and `values`
(sequence number to features). LMDB's copy-on-write pages keep the last committed state through a crash.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.storage.codec import CODECS, Codec, decode, encode, id_bytes, key_of, several
from delf_engine.storage.environment import VERSION, Transactions, read_header, translated, write_header
from delf_engine.storage.revision import Changes, Revision, current_revision, has_been_at, write_revision
from delf_engine.storage.shared import DATA, Environment, join, leave, lock_for_writing
from delf_engine.support.files import system_errors

_MAP_SIZE = 1 << 40  # address space only: the file stays as small as its contents
_SMALLEST_MAP = 1 << 16


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes
    ----------
    count : int
        Images.
    bytes : int
        Size of the store's file.
    dim : int
        Descriptor dimension D.
    codec : "float32", "float16" or "uint8"
        How descriptors are kept.
    model : str
        Name and hash of the model that made the features, as given on creation.
    version : int
        Version of the format on disk.
    """

    count: int
    bytes: int
    dim: int
    codec: Codec
    model: str
    version: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)


class FeatureStore(Transactions):
    """Local features of many images on disk, by image id. Open one with `create` or `open`, close it after use.

    One object writes at a time; any number of them, in this process and others, read meanwhile and see the last
    committed batch, or if `pin` was called what was committed then. Their methods are safe in threads, and go on
    in a forked child, where they only read.
    """

    def __init__(self, path: Path, shared: Environment, header: dict[str, Any], lock: FileLock | None) -> None:
        super().__init__(path, shared, lock)
        self._header = header

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int,
        codec: Codec = "float16",
        model: str = "",
        map_size: int = _MAP_SIZE,
    ) -> FeatureStore:
        """Create an empty store and open it for writing.

        Parameters
        ----------
        path : path
            Directory, made if need be.
        dim : int
            Descriptor dimension D.
        codec : "float32", "float16" or "uint8"
            How descriptors are kept; `delf_engine.storage.codec` states the errors.
        model : str
            Name and hash of the model that makes the features; kept, and returned by `model`.
        map_size : int
            Address space in bytes to begin with. It grows by itself.

        Raises
        ------
        ConfigError
            If an option is out of range.
        FormatError
            If the directory holds a store already, or cannot be written.
        LockedError
            If another process, or another object of this one, is creating or writing it.
        """
        if dim < 1 or codec not in CODECS or map_size < 1:
            raise ConfigError(
                f"a store needs dim >= 1, map_size >= 1 and a codec of {', '.join(CODECS)}; "
                f"got dim = {dim}, map_size = {map_size}, codec = {codec!r}"
            )
        path = Path(path)
        with system_errors(f"{path}: a feature store cannot be created here"):
            path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            lock = lock_for_writing(path)
            undo.callback(lock.release)
            shared = join(path, readonly=False, map_size=max(map_size, _SMALLEST_MAP))
            undo.callback(leave, shared)
            with translated(path, "cannot be created"):
                store = cls(path, shared, write_header(path, shared, dim, codec, model), lock)
            undo.pop_all()
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, readonly: bool = False) -> FeatureStore:
        """Open a store that exists.

        Parameters
        ----------
        path : path
            Its directory.
        readonly : bool
            Readers need no lock and do not disturb a writer.

        Raises
        ------
        FormatError
            If there is no store, or it is damaged, cut short, or of another format version.
        LockedError
            If another process, or another object of this one, is writing to it: readers are never refused.
        """
        path = Path(path)
        if not (path / DATA).is_file():
            raise FormatError(f"{path}: there is no feature store here")
        with contextlib.ExitStack() as undo:
            lock = None
            if not readonly:
                lock = lock_for_writing(path)
                undo.callback(lock.release)
            shared = join(path, readonly=readonly, map_size=_MAP_SIZE)
            undo.callback(leave, shared)
            with translated(path, "is damaged"):
                store = cls(path, shared, read_header(path, shared), lock)
            undo.pop_all()
        return store

    def __enter__(self) -> FeatureStore:
        return self

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return self._path

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self._header["dim"])

    @property
    def codec(self) -> Codec:
        """How descriptors are kept."""
        return self._header["codec"]

    @property
    def model(self) -> str:
        """Name and hash of the model, as given on creation."""
        return str(self._header["model"])

    def put(self, image_id: str, features: LocalFeatures, *, replace: bool = False) -> bool:
        """Store the features of one image; see `put_many`. Returns whether they were written."""
        return bool(self.put_many([(image_id, features)], replace=replace))

    def put_many(self, items: Iterable[tuple[str, LocalFeatures]], *, replace: bool = False) -> list[str]:
        """Store the features of a batch of images in one transaction: all of them, or on any error none.

        Parameters
        ----------
        items : iterable of (image id, LocalFeatures)
        replace : bool
            Ids that are there already are overwritten and become the last in the order, as if they had been
            removed and put again. False: leave them alone, so that adding a batch again is harmless.

        Returns
        -------
        list of str
            The ids that were written, in the order of the store.

        Raises
        ------
        ConfigError
            If an id is empty or not a string.
        FeatureError
            If an item is no `LocalFeatures`.
        MismatchError
            If descriptors have another dimension than the store.
        LockedError
            If the store is open for reading only.
        FormatError
            If the batch cannot be written, for instance because the disk is full. The store is as before.
        """
        batch = [(image_id, id_bytes(image_id), features) for image_id, features in items]
        for image_id, _, features in batch:
            if not isinstance(features, LocalFeatures):
                raise FeatureError(f"{image_id}: expected LocalFeatures, got {type(features).__name__}")
            if features.dim != self.dim:
                raise MismatchError(
                    f"{image_id}: descriptors have {features.dim} dimensions, {self._path} holds {self.dim}"
                )

        def write(txn: Any) -> list[str]:
            written: dict[str, None] = {}
            following = current_revision(txn, self._tables[b"meta"]).sequence
            for image_id, name, features in batch:
                sequence = txn.get(key_of(name), db=self._tables[b"keys"])
                if sequence is not None:
                    if not replace:
                        continue
                    self._delete(txn, sequence)
                    written.pop(image_id, None)
                sequence, following = following.to_bytes(8, "big"), following + 1
                txn.put(key_of(name), sequence, db=self._tables[b"keys"])
                txn.put(sequence, name, db=self._tables[b"names"], append=True)
                txn.put(sequence, encode(features, self.codec, name), db=self._tables[b"values"])
                written[image_id] = None
            if written:
                write_revision(txn, self._tables[b"meta"], following)
            return list(written)

        return self._write(write)

    def put_stored(self, other: FeatureStore) -> list[str]:
        """Put all images of another store in one transaction, as they are stored: nothing is decoded.

        Parameters
        ----------
        other : FeatureStore
            Open, of the same dimension, codec and model.

        Returns
        -------
        list of str
            The ids that were written; those that were there already are left alone.

        Raises
        ------
        MismatchError
            If the other store holds features of another kind.
        LockedError
            If this store is open for reading only.
        FormatError
            If the batch cannot be written. The store is as before.
        """
        mine, theirs = ((one.dim, one.codec, one.model) for one in (self, other))
        if mine != theirs:
            raise MismatchError(f"{other.path} holds features of {theirs}, {self._path} of {mine}")

        def write(txn: Any) -> list[str]:
            written: list[str] = []
            following = current_revision(txn, self._tables[b"meta"]).sequence
            with other._reading() as source, source.cursor(db=other._tables[b"names"]) as names:
                for number, name in names:
                    sequence = following.to_bytes(8, "big")
                    if txn.put(key_of(name), sequence, db=self._tables[b"keys"], overwrite=False):
                        txn.put(sequence, name, db=self._tables[b"names"], append=True)
                        txn.put(
                            sequence, source.get(number, db=other._tables[b"values"]), db=self._tables[b"values"]
                        )
                        following += 1
                        written.append(_decoded(name))
            if written:
                write_revision(txn, self._tables[b"meta"], following)
            return written

        return self._write(write)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images in one transaction.

        Raises
        ------
        UnknownIdError
            If an id is not in the store; nothing is removed then.
        LockedError
            If the store is open for reading only.
        """
        names = {image_id: id_bytes(image_id) for image_id in several(ids)}
        meta = self._tables[b"meta"]

        def write(txn: Any) -> None:
            for image_id, name in names.items():
                sequence = txn.pop(key_of(name), db=self._tables[b"keys"])
                if sequence is None:
                    raise self._unknown(image_id)
                self._delete(txn, sequence)
            if names:
                write_revision(txn, meta, current_revision(txn, meta).sequence)

        self._write(write)

    def get(self, image_id: str) -> LocalFeatures:
        """Return the features of one image.

        Raises
        ------
        UnknownIdError
            If the store does not hold it.
        FormatError
            If the stored value is damaged.
        """
        return self.get_many([image_id])[0]

    def get_many(self, ids: Iterable[str]) -> list[LocalFeatures]:
        """Return the features of several images, in the order of `ids`, all of one committed state.

        Raises
        ------
        UnknownIdError
            If the store does not hold one of them.
        FormatError
            If a stored value is damaged.
        """
        names = [(image_id, id_bytes(image_id)) for image_id in several(ids)]
        found = []
        with self._reading() as txn:
            for image_id, name in names:
                sequence = txn.get(key_of(name), db=self._tables[b"keys"])
                if sequence is None:
                    raise self._unknown(image_id)
                # bytes, not a view of the map: decoded arrays refer to them after the transaction.
                found.append((image_id, name, txn.get(sequence, db=self._tables[b"values"]) or b""))
        return [decode(value, name, f"{self._path}: {image_id}") for image_id, name, value in found]

    def items(self, *, batch: int = 256) -> Iterator[tuple[str, LocalFeatures]]:
        """Yield (image id, features) in the order of insertion, reading `batch` images at a time.

        Images removed meanwhile are passed over, images added meanwhile are left out.
        """
        ids = self.ids()
        for start in range(0, len(ids), batch):
            chunk = [image_id for image_id in ids[start : start + batch] if image_id in self]
            yield from zip(chunk, self.get_many(chunk), strict=True)

    def __contains__(self, image_id: object) -> bool:
        if not isinstance(image_id, str) or not image_id:
            return False
        with self._reading() as txn:
            return txn.get(key_of(id_bytes(image_id)), db=self._tables[b"keys"]) is not None

    def __len__(self) -> int:
        with self._reading() as txn:
            return int(txn.stat(self._tables[b"keys"])["entries"])

    def ids(self) -> list[str]:
        """Return the ids of all images, in the order of insertion."""
        with self._reading() as txn, txn.cursor(db=self._tables[b"names"]) as cursor:
            return [_decoded(name) for name in cursor.iternext(keys=False)]

    def revision(self) -> Revision:
        """Return the revision of the state now."""
        with self._reading() as txn:
            return current_revision(txn, self._tables[b"meta"])

    def changes(self, since: Revision | None) -> Changes:
        """Return what has been put since a revision, all of one committed state. Only that is read."""
        meta = self._tables[b"meta"]
        with self._reading() as txn, txn.cursor(db=self._tables[b"names"]) as cursor:
            revision = current_revision(txn, meta)
            images = int(txn.stat(self._tables[b"keys"])["entries"])
            if since is None or not has_been_at(txn, meta, since):
                return Changes(revision, images, None, since is not None)
            put = cursor.iternext(keys=False) if cursor.set_range(since.sequence.to_bytes(8, "big")) else ()
            return Changes(revision, images, [_decoded(name) for name in put], False)

    def check(self) -> Iterator[tuple[str, str | None]]:
        """Yield each image id and what is wrong with its stored value: None if nothing is."""
        for image_id in self.ids():
            try:
                self.get(image_id)
                yield image_id, None
            except UnknownIdError:  # removed meanwhile
                continue
            except FormatError as error:
                yield image_id, str(error)

    def info(self) -> StoreInfo:
        """Return what the store holds."""
        size = (self._path / DATA).stat().st_size
        return StoreInfo(len(self), size, self.dim, self.codec, self.model, VERSION)

    def __repr__(self) -> str:
        if self._is_closed:
            return f"FeatureStore({str(self._path)!r}, closed)"
        return f"FeatureStore({str(self._path)!r}, {len(self)} images, {self.dim}-D {self.codec})"

    def _delete(self, txn: Any, sequence: bytes) -> None:
        txn.delete(sequence, db=self._tables[b"names"])
        txn.delete(sequence, db=self._tables[b"values"])

    def _unknown(self, image_id: str) -> UnknownIdError:
        return UnknownIdError(f"{self._path} holds no image {image_id!r}")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
