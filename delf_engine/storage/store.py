"""`FeatureStore`: the local features of many images in one LMDB directory.

Three tables and the metadata live in one LMDB environment, so that every batch is one transaction: `keys` (image
id to sequence number), `names` (sequence number to image id, which keeps the order of insertion) and `values`
(sequence number to features). LMDB's copy-on-write pages keep the last committed state through a crash.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import lmdb
from filelock import FileLock

from delf_engine.errors import (
    ConfigError,
    DelfEngineError,
    FeatureError,
    FormatError,
    LockedError,
    MismatchError,
    UnknownIdError,
)
from delf_engine.features import LocalFeatures
from delf_engine.storage.codec import CODECS, Codec, decode, encode
from delf_engine.storage.environment import (
    DATA,
    TABLES,
    VERSION,
    lock_for_writing,
    new_header,
    open_environment,
    read_header,
    translated,
    used_bytes,
    write_header,
)
from delf_engine.storage.info import StoreInfo
from delf_engine.storage.keys import id_bytes, key_of, several

__all__ = ["FeatureStore"]

_MAP_SIZE = 1 << 30  # address space only: the file stays as small as its contents
_SMALLEST_MAP = 1 << 16

T = TypeVar("T")


class FeatureStore:
    """Local features of many images on disk, by image id. Open one with `create` or `open`, close it after use.

    One process writes at a time; any number of processes read meanwhile and see the last committed batch. One
    process may open a store only once (a limit of LMDB): share the object, its methods are safe in threads.
    """

    def __init__(self, path: Path, environment: Any, header: dict[str, Any], lock: FileLock | None) -> None:
        self._path = path
        self._environment: Any = environment
        self._lock = lock
        self._header = header
        self._mutex = threading.RLock()
        self._tables = {name: environment.open_db(name, create=False) for name in TABLES[1:]}

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
            If another process is creating or writing it, or this process has it open.
        """
        if dim < 1 or codec not in CODECS or map_size < 1:
            raise ConfigError(
                f"a store needs dim >= 1, map_size >= 1 and a codec of {', '.join(CODECS)}; "
                f"got dim = {dim}, map_size = {map_size}, codec = {codec!r}"
            )
        path = Path(path)
        header = new_header(dim, codec, model)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FormatError(f"{path}: a feature store cannot be created here: {error}") from error
        with contextlib.ExitStack() as undo:
            lock = lock_for_writing(path)
            undo.callback(lock.release)
            environment = open_environment(path, readonly=False, map_size=max(map_size, _SMALLEST_MAP))
            undo.callback(environment.close)
            with translated(path, "cannot be created"):
                write_header(path, environment, header)
                store = cls(path, environment, header, lock)
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
            If another process is writing to it, or this process has it open already.
        """
        path = Path(path)
        if not (path / DATA).is_file():
            raise FormatError(f"{path}: there is no feature store here")
        with contextlib.ExitStack() as undo:
            lock = None
            if not readonly:
                lock = lock_for_writing(path)
                undo.callback(lock.release)
            environment = open_environment(path, readonly=readonly, map_size=_MAP_SIZE)
            undo.callback(environment.close)
            with translated(path, "is damaged"):
                store = cls(path, environment, read_header(path, environment), lock)
            undo.pop_all()
        return store

    def close(self) -> None:
        """Close the store and let go of its lock. Closing twice is harmless."""
        with self._mutex:
            if self._environment is not None:
                self._environment.close()
                self._environment = None
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            Overwrite ids that are there already, which keep their place in the order. Otherwise they are
            left alone, so that adding a batch again is harmless.

        Returns
        -------
        list of str
            The ids that were written, in order.

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
            for image_id, name, features in batch:
                sequence = txn.get(key_of(name), db=self._tables[b"keys"])
                if sequence is not None and not replace:
                    continue
                if sequence is None:
                    sequence = self._next_sequence(txn)
                    txn.put(key_of(name), sequence, db=self._tables[b"keys"])
                    txn.put(sequence, name, db=self._tables[b"names"], append=True)
                txn.put(sequence, encode(features, self.codec, name), db=self._tables[b"values"])
                written[image_id] = None
            return list(written)

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

        def write(txn: Any) -> None:
            for image_id, name in names.items():
                sequence = txn.pop(key_of(name), db=self._tables[b"keys"])
                if sequence is None:
                    raise self._unknown(image_id)
                txn.delete(sequence, db=self._tables[b"names"])
                txn.delete(sequence, db=self._tables[b"values"])

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
                value = txn.get(sequence, db=self._tables[b"values"]) or b""
                found.append(decode(value, name, f"{self._path}: {image_id}"))
        return found

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
            return [name.decode("utf-8", "surrogatepass") for name in cursor.iternext(keys=False)]

    def info(self) -> StoreInfo:
        """Return what the store holds."""
        size = (self._path / DATA).stat().st_size
        return StoreInfo(len(self), size, self.dim, self.codec, self.model, VERSION)

    def __repr__(self) -> str:
        if self._environment is None:
            return f"FeatureStore({str(self._path)!r}, closed)"
        return f"FeatureStore({str(self._path)!r}, {len(self)} images, {self.dim}-D {self.codec})"

    def _next_sequence(self, txn: Any) -> bytes:
        with txn.cursor(db=self._tables[b"names"]) as cursor:
            last = int.from_bytes(cursor.key(), "big") if cursor.last() else -1
        return (last + 1).to_bytes(8, "big")

    def _unknown(self, image_id: str) -> UnknownIdError:
        return UnknownIdError(f"{self._path} holds no image {image_id!r}")

    def _live(self) -> Any:
        if self._environment is None:
            raise DelfEngineError(f"{self._path}: the feature store is closed")
        return self._environment

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._mutex, translated(self._path, "is damaged"):
            environment = self._live()
            try:
                txn = environment.begin()
            except lmdb.MapResizedError:  # a writer in another process has grown it
                environment.set_mapsize(0)
                txn = environment.begin()
            with txn:
                yield txn

    def _write(self, action: Callable[[Any], T]) -> T:
        with self._mutex, translated(self._path, "cannot be written, and is as it was before"):
            environment = self._live()
            if self._lock is None:
                raise LockedError(f"{self._path}: the feature store is open for reading only")
            while True:
                try:
                    with environment.begin(write=True) as txn:
                        result = action(txn)
                    break
                except lmdb.MapFullError:
                    environment.set_mapsize(2 * environment.info()["map_size"])
            # LMDB does not write pages that were taken and freed within one transaction. At the end of the
            # file they would make it look cut short to `read_header`.
            used = used_bytes(environment)
            with contextlib.suppress(OSError):
                if (self._path / DATA).stat().st_size < used:
                    os.truncate(self._path / DATA, used)
            return result
