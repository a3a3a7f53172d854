"""An engine's directory: made in one step, its index and words opened, all of it checked, left-overs deleted."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from delf_engine.config import Profile, load_profile
from delf_engine.engine.file_ids import kept_root
from delf_engine.engine.fine import FINE, create_fine_store
from delf_engine.engine.manifest import Manifest, read_manifest, write_manifest
from delf_engine.engine.results import CheckReport
from delf_engine.errors import ConfigError, DelfEngineWarning, FormatError, LockedError, MismatchError
from delf_engine.index import KINDS, AnyIndex, Encoder, IndexKind, check_index, has_index
from delf_engine.index.kinds import load_encoder, load_index, new_index
from delf_engine.model import codebook_path, load_global_head, model_reference, read_checkpoint_info
from delf_engine.storage import FeatureStore
from delf_engine.support.files import system_errors

FEATURES = "features"

#: The words of an index, or the file that holds them.
Words: TypeAlias = Encoder | str | os.PathLike[str]

_ATTEMPTS = 5

# Names of ours: whatever else lies in an engine's directory is left alone.
_INDEX = re.compile(r"index(-\d+)?")
_WORDS = re.compile(r"codebook(-[0-9a-f]{16})?\.safetensors")


def create_directory(
    directory: Path,
    *,
    model: str | os.PathLike[str],
    profile: str | os.PathLike[str] | Profile | None,
    index: IndexKind | None,
    codebook: Words | None,
    root: str | os.PathLike[str],
    fine: bool,
) -> None:
    """Make the directory of an empty engine; see `Engine.create`."""
    manifest = new_manifest(model, profile, index)
    words = choose_encoder(manifest.index, codebook, model, manifest.dim)
    kept = {"codebook": None if words is None else words.hash, "root": kept_root(directory, root)}
    manifest = manifest.model_copy(update=kept)
    with new_directory(directory) as temporary:
        new_store(temporary / FEATURES, manifest).close()
        if fine:
            create_fine_store(temporary, manifest.profile)
        if words is not None:
            words.save(temporary / manifest.codebook_file)
        empty_index(manifest, words).save(temporary / manifest.index_folder)
        write_manifest(temporary, manifest)


def new_manifest(
    model: str | os.PathLike[str], profile: str | os.PathLike[str] | Profile | None, index: IndexKind | None
) -> Manifest:
    """Return what an engine says of itself before it has words and a root; errors as of `Engine.create`."""
    info = read_checkpoint_info(model)
    chosen = profile if isinstance(profile, Profile) else load_profile(profile or info.profile)
    kind = index or chosen.index
    check_kind(kind)
    head = load_global_head(model, info.identity)
    return Manifest(
        model=model_reference(model),
        model_identity=info.identity,
        dim=info.dim,
        index=kind,
        codebook=None,
        profile=chosen,
        global_head=None if head is None else head.identity,
        vectors=0 if head is None else head.dim,
    )


def new_store(path: Path, manifest: Manifest) -> FeatureStore:
    """Make the empty feature store of a manifest and open it for writing."""
    codec = manifest.profile.storage.codec
    return FeatureStore.create(path, dim=manifest.dim, codec=codec, model=manifest.model_identity)


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Yield a folder that becomes the directory of an engine if the block ends without an error.

    A `FormatError` if there is something already, or it cannot be made; a `LockedError` if it was made meanwhile.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FormatError(f"{directory}: exists and is not empty; open it, or choose another place")
    with system_errors(f"{directory}: an engine cannot be made here"):
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place and renamed, so that a crash leaves no half an engine.
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            try:
                os.replace(temporary, directory)
            except OSError as failure:
                if failure.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise LockedError(f"{directory}: another process has just made it; try again") from failure
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def choose_encoder(
    kind: IndexKind, given: Words | None, model: str | os.PathLike[str], dim: int
) -> Encoder | None:
    """Return the words given, or the codebook that comes with the checkpoint.

    A `ConfigError` if there is no such kind of index, it needs words and there are none, or takes none; a
    `MismatchError` if they are not `dim`-D.
    """
    check_kind(kind)
    if kind == "kdtree":
        if given is not None:
            raise ConfigError("a KD-tree index has no words; leave codebook=... out, or choose another index")
        return None
    if given is None and kind in ("vlad", "fisher"):
        what = "a small codebook" if kind == "vlad" else "a mixture"
        option = "--words 64" + (" --mixture" if kind == "fisher" else "")
        raise ConfigError(
            f"an index of kind {kind!r} needs {what} of its own: train one with `delf-engine codebook PHOTOS "
            f"words.safetensors {option}` and give it as codebook=..."
        )
    if given is None:
        given = codebook_path(model)
        if given is None:
            raise ConfigError(
                f"checkpoint {str(model)!r} comes without a codebook; give codebook=..., or use index='kdtree'"
            )
    words = given if isinstance(given, Encoder) else load_encoder(kind, given)
    if words.dim != dim:
        raise MismatchError(
            f"the {type(words).__name__.lower()} is {words.dim}-D, the model's descriptors {dim}-D"
        )
    return words


def check_kind(kind: str) -> None:
    """Raise `ConfigError` unless there is such a kind of index."""
    if kind not in KINDS:
        raise ConfigError(f"there is no index of kind {kind!r}; choose from {', '.join(KINDS)}")


def empty_index(manifest: Manifest, encoder: Encoder | None) -> AnyIndex:
    """Return an empty index of the kind that the manifest names."""
    index = new_index(manifest.index, manifest.dim, manifest.profile, encoder)
    index.keep_vectors(manifest.vectors)
    return index


def open_index(
    directory: Path, manifest: Manifest, check: bool | None, words: Encoder | None = None
) -> tuple[Manifest, AnyIndex]:
    """Open the index of an engine's directory, without segments that are damaged.

    `words` are those of an index that was opened before; they are read again unless they are the manifest's.

    Where there is none, or its manifest is damaged, a `DelfEngineWarning` says so and it begins empty. Returns the
    engine's manifest, too: another process may have given the engine another index since it was read.
    """
    for _ in range(_ATTEMPTS):
        try:
            path, encoder = directory / manifest.index_folder, words
            if encoder is None or encoder.hash != manifest.codebook:
                encoder = open_encoder(directory, manifest)
            return manifest, load_index(path, manifest.index, manifest.profile, encoder, check=check)
        except (FormatError, MismatchError):
            before, manifest = manifest, read_manifest(directory)
            if manifest == before:
                break
    return manifest, _open_damaged(directory, manifest, check)


def _open_damaged(directory: Path, manifest: Manifest, check: bool | None) -> AnyIndex:
    path, encoder = directory / manifest.index_folder, open_encoder(directory, manifest)
    try:
        return load_index(path, manifest.index, manifest.profile, encoder, check=check, damaged="skip")
    except FormatError as error:
        if has_index(path):
            raise
        message = f"{error}; it is made again from the stored features"
        warnings.warn(message, DelfEngineWarning, stacklevel=4)
        return empty_index(manifest, encoder)


def open_encoder(directory: Path, manifest: Manifest) -> Encoder | None:
    """Return the words of an engine's directory, None if its index has none.

    A `FormatError` if the file is missing or damaged, a `MismatchError` if it is another than the engine was made
    with.
    """
    if manifest.codebook is None:
        return None
    path = directory / manifest.codebook_file
    words = load_encoder(manifest.index, path)
    if words.hash != manifest.codebook:
        raise MismatchError(f"{path}: not the words that this engine was made with")
    return words


def remove_unused(directory: Path, manifest: Manifest) -> None:
    """Delete indexes and words of ours that the manifest does not name."""
    words = manifest.codebook_file if manifest.codebook is not None else None
    for path in directory.iterdir():
        if _INDEX.fullmatch(path.name) and path.is_dir() and path.name != manifest.index_folder:
            shutil.rmtree(path, ignore_errors=True)
        elif _WORDS.fullmatch(path.name) and path.name != words:
            path.unlink(missing_ok=True)


def check_directory(directory: Path) -> CheckReport:
    """Check an engine that is not open, without reading its index into memory; see `Engine.check`.

    A `FormatError` if there is no engine, or its feature store cannot be opened at all.
    """
    manifest = read_manifest(directory)
    with FeatureStore.open(directory / FEATURES, readonly=True) as store:
        return check_parts(directory, manifest, store)


def check_parts(directory: Path, manifest: Manifest, store: FeatureStore) -> CheckReport:
    """Read the codebook, every file of the index and every value of the store; see `Engine.check`."""
    report, words, index = CheckReport(), directory / manifest.codebook_file, directory / manifest.index_folder
    if manifest.codebook is not None:
        report.files.append(str(words))
        try:
            open_encoder(directory, manifest)
        except (FormatError, MismatchError) as error:
            report.damaged_files.append((str(words), str(error)))
    try:
        for path, problem in check_index(index):
            report.files.append(str(path))
            if problem is not None:
                report.damaged_files.append((str(path), problem))
    except FormatError as error:
        report.damaged_files.append((str(index), str(error)))
    for image_id, problem in store.check():
        report.images.append(image_id)
        if problem is not None:
            report.damaged_images.append((image_id, problem))
    if (directory / FINE).is_dir():
        with FeatureStore.open(directory / FINE, readonly=True) as details:
            found = ((image_id, problem) for image_id, problem in details.check() if problem is not None)
            report.damaged_images.extend(found)
    return report
