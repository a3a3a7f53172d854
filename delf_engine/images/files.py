"""Which files are photographs: those that Pillow can read here. What a folder has besides is counted and named."""

from __future__ import annotations

import functools
import mimetypes
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from delf_engine.errors import DataError, DelfEngineWarning

#: What to do about the photographs of phones where they cannot be read.
HEIF_ADVICE = "HEIC and HEIF need pip install 'delf-engine[heif]'"
_NAMED = 8  # endings, or links, that one warning names
_LONGEST_PATH = 4096  # of Linux
# How JPEG, PNG, GIF and WebP begin in base64; the first is also how a path may begin.
_IMAGE_IN_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/\s]+={0,2}\s*")

# Python's own table, not the machine's: the same files are named everywhere.
_known_types = mimetypes.MimeTypes()


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the image files that the given files and folders name.

    Folders are searched recursively for files with an ending that Pillow can read here (`image_suffixes`), in
    sorted order; hidden files and folders are passed over. A file named outright is taken whatever its ending.
    Each file is listed once, under the first of its paths; links are not resolved.

    Raises
    ------
    DataError
        If a path does not exist, or a folder holds no image; it says what the folder holds instead.

    Warns
    -----
    DelfEngineWarning
        For each folder inside that cannot be read; once for each given folder with links to folders, which are not
        followed; and once for each with files that may be pictures and cannot be read here, counted by their
        endings. The search goes on without them. Text, archives and the like are counted beside these, and alone
        give no warning.
    """
    found: dict[str, str] = {}
    for given in paths:
        path = Path(given)
        if not os.fspath(given):  # as an unset variable of a shell makes it; Path takes it for the current folder
            raise DataError("the name of a file or folder is empty")
        if os.path.isdir(path):  # unlike Path.is_dir, False for a name too long to exist
            passed: Counter[str] = Counter()
            links: list[str] = []
            inside = list(_walk(path, passed, links))
            if links:  # or walks might go round in circles
                listed = ", ".join(links[:_NAMED]) + (", ..." if len(links) > _NAMED else "")
                told = f"{path}: links to folders are not followed; to take what is there name it: {listed}"
                warnings.warn(told, DelfEngineWarning, stacklevel=2)
            if not inside:
                raise DataError(f"{path}: no image in this folder{_listed(passed, '; passed over ')}")
            if any(map(_may_be_picture, passed)):
                warnings.warn(f"{path}: {_listed(passed, 'passed over ')}", DelfEngineWarning, stacklevel=2)
            for file in inside:
                found.setdefault(os.path.abspath(file), file)
        elif os.path.exists(path):
            found.setdefault(os.path.abspath(path), os.fspath(path))
        else:
            name = os.fspath(given)
            raise DataError(f"{shortened(name)}: {no_path(name) or 'no such file or folder'}")
    return list(found.values())


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of files that are taken from a folder, such as ``.jpg``: what Pillow can decode here.

    ``.heic`` and ``.heif``, the photographs of phones, are among them if pillow-heif is installed.
    """
    from PIL import Image, ImageFile

    with_heif()
    Image.init()

    def decodes(kind: str) -> bool:
        # Videos and PostScript are no photographs; a stub knows the header only. JPEG's reader also opens MPO.
        reader = Image.OPEN.get("JPEG" if kind == "MPO" else kind, (ImageFile.StubImageFile,))[0]
        stub = isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
        return not stub and Image.MIME.get(kind, "image/").startswith("image/")

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if decodes(kind))


@functools.cache
def with_heif() -> bool:
    """Let Pillow read HEIC and HEIF if the optional pillow-heif is installed; return whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def is_heif(name: str) -> bool:
    """Tell by its name whether a file is a photograph in HEIC or HEIF."""
    return _suffix(name) in (".heic", ".heif")


def no_path(text: str) -> str | None:
    """Say what a text is that was given in place of a file's name, if it is visibly something else."""
    readable = "what is read are files, the bytes of one, PIL images, and (H, W, 3) or (H, W) uint8 arrays"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):  # a Path makes one slash of two
        return f"is an address: download it first; {readable}"
    if text.startswith("data:") or len(text) > _LONGEST_PATH or _IMAGE_IN_BASE64.fullmatch(text):
        return f"is no path, but perhaps an image in base64: decode it first; {readable}"
    return None


def shortened(name: str) -> str:
    """Return a name as messages show it: whole, unless it is too long for one."""
    return name if len(name) <= 512 else f"{name[:80]}...{name[-80:]}"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _may_be_picture(suffix: str) -> bool:
    """Tell whether an ending is a picture's, or may be for all that is known of it."""
    kind = _known_types.guess_type(f"x{suffix}", strict=False)[0]
    return kind is None or kind.startswith("image/")


def _walk(folder: Path, passed: Counter[str], links: list[str]) -> Iterator[str]:
    """Yield the images in a folder; count the endings of its other files in `passed`, list `links` to folders."""

    def left_out(error: OSError) -> None:
        warnings.warn(f"{error.filename}: folder left out: {error.strerror}", DelfEngineWarning, stacklevel=2)

    for root, folders, files in os.walk(folder, onerror=left_out):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        links += filter(os.path.islink, (os.path.join(root, f) for f in folders))
        for file in sorted(f for f in files if not f.startswith(".")):
            path = Path(root, file)
            if _suffix(file) not in image_suffixes():
                passed[_suffix(file)] += 1
            elif path.is_file() or path.is_symlink():  # a broken link is reported later, a pipe would block
                yield os.fspath(path)


def _listed(passed: Counter[str], before: str) -> str:
    """Say how many files of which endings were passed over and why, those that may be pictures first."""
    if not passed:
        return ""
    order = sorted(passed, key=lambda suffix: (not _may_be_picture(suffix), -passed[suffix], suffix))
    named = ", ".join(f"{passed[suffix]:,} {suffix or 'without ending'}" for suffix in order[:_NAMED])
    more = f" and {len(order) - _NAMED} more endings" if len(order) > _NAMED else ""
    heif = f"; {HEIF_ADVICE}" if any(map(is_heif, (f"x{suffix}" for suffix in passed))) else ""
    return f"{before}{passed.total():,} files, of no format that is read here: {named}{more}{heif}"
