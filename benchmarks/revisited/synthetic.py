"""A stand-in for a revisited set, made from photographs at hand at any size: official layout, exact truth.

A landmark is a part of a photograph: its middle where there are photographs enough, else one of its quarters. All
other pictures are of other photographs; where each has a landmark, of scenes that the demo draws. Every picture is
a view of one photograph or scene as training makes them (`delf_engine.training.views.random_view`): a homography,
which is kept, and other light, blur, noise and JPEG. A query is a mild view of a landmark; the gallery has mild
views, strong ones, and views of whatever part of its photograph.

How much the view changed between a query and a picture of the same photograph says what the picture is to it:

======  =============================  ======================  ===============
it is   shows of the query's landmark  larger or smaller by    stretched by
======  =============================  ======================  ===============
easy    at least 60 %                  at most 1.6             at most 1.5
hard    at least 30 %                  at most 3               at most 4
junk    anything                       more                    more
======  =============================  ======================  ===============

Pictures that show nothing of it are negatives. The figures of such a set say little about photographs of places:
it tries a run out at real size, and shows that geometry is found where it is known.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine.demo.clutter import SCENES
from delf_engine.errors import ConfigError, DataError, FormatError, ImageError, MismatchError
from delf_engine.evaluation import GroundTruth, save_ground_truth
from delf_engine.images import load_image
from delf_engine.pyramid import resize
from delf_engine.support.files import replacing, system_errors
from delf_engine.support.threads import check_threads, in_threads
from delf_engine.training.views import ViewsConfig, random_view

__all__ = ["GEOMETRY", "SUMMARY", "Options", "Record", "StandIn", "make", "relations", "shown"]

Matrix: TypeAlias = npt.NDArray[np.float64]
Box: TypeAlias = tuple[float, float, float, float]
Landmark: TypeAlias = tuple[int, Box]  # number of its photograph, and where it is in it
Kind: TypeAlias = Literal["query", "landmark", "other"]
Level: TypeAlias = Literal["mild", "strong", "anywhere"]

GEOMETRY = "geometry.jsonl"  #: One record a picture: its photograph, and the homography.
SUMMARY = "synthetic.json"  #: What the set was made from, and whether it is whole.

_FORMAT = 2  # another number: other pixels for the same options, or other files
_PICTURES, _PARTS = "jpg", "parts"
_LANDMARKS, _QUARTERS = 14, ((0, 0), (1, 1), (1, 0), (0, 1))
_SMALLEST = 64  # pixels, of photographs and pictures
_CHUNK = 32  # pictures made, and lost by a kill, at a time
_QUALITY = 95
_GRID = 16  # samples of a landmark a side
_LEVELS: tuple[Level, ...] = ("mild", "strong", "anywhere", "strong")  # of views of a landmark, in turn
_OF_A_SCENE = 8  # views
_ORDER, _SCENE = 3, 4  # kinds of random streams, beside those of pictures

_EASY, _HARD = (0.6, 1.6, 1.5), (0.3, 3.0, 4.0)  # least overlap, most change of scale, most stretch


@dataclass(frozen=True)
class Options:
    """What is made.

    Parameters
    ----------
    images : int
        In the gallery. A quarter is of photographs with a landmark.
    queries : int
        Besides the gallery, dealt out to the landmarks.
    seed : int
        Another one gives other views.
    side : int
        Of the square pictures, in pixels.

    Raises
    ------
    ConfigError
        If one is out of range.
    """

    images: int = 5000
    queries: int = 70
    seed: int = 0
    side: int = 400

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("queries", 1), ("seed", 0), ("side", _SMALLEST)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} of the stand-in must be a whole number from {least}, got {value!r}")


@dataclass(frozen=True, eq=False)
class Record:
    """One picture.

    Attributes
    ----------
    name : str
        Of its file, without ending.
    kind : "query", "landmark" or "other"
    photo : int
        Number of its photograph in the summary; from their count on, of a drawn scene.
    landmark : int or None
        Of its photograph.
    homography : (3, 3) float64
        Maps pixels of the photograph, as it lies on the disk, to pixels of the picture.
    sha256 : str
        Of the file.
    """

    name: str
    kind: Kind
    photo: int
    landmark: int | None
    homography: Matrix
    sha256: str

    def to_json(self) -> str:
        """Return a line of the geometry file; `from_json` gives the same record, to the last bit."""
        return json.dumps({**vars(self), "homography": self.homography.tolist()})

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read what `to_json` wrote; ValueError, KeyError or TypeError if it is no such line."""
        values = json.loads(line)
        homography = np.array(values.pop("homography"), np.float64)
        if homography.shape != (3, 3):
            raise ValueError("homography is no (3, 3) matrix")
        return cls(homography=homography, **values)


@dataclass(frozen=True)
class StandIn:
    """A set on disk.

    Attributes
    ----------
    pictures : Path
        Folder of the gallery and the queries.
    ground_truth : Path
        ``gnd_NAME.pkl``, as the official ones are laid out.
    made : int
        Pictures that this call wrote; the others were there.
    """

    pictures: Path
    ground_truth: Path
    made: int


class _Shot(NamedTuple):
    """A picture that is to be made; `number` counts within its kind."""

    name: str
    kind: Kind
    number: int
    photo: int
    landmark: int | None
    level: Level


def make(
    folder: Path,
    name: str,
    options: Options,
    photos: Sequence[Path] | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StandIn:
    """Make a set: ``jpg/``, ``gnd_NAME.pkl``, and beside them the geometry and a summary.

    A call that was stopped goes on where it was. Equal options and photographs give the same bits for any number
    of workers.

    Parameters
    ----------
    folder : Path
        Made if it is missing; else empty, or of an earlier call with the same options.
    name : str
        Of the ground truth.
    options : Options
    photos : sequence of paths or None
        Photographs to make it from; None takes the two that scikit-learn ships.
    workers : int or None
        Threads; None takes one for each core that may be used.
    progress : callable or None
        Called with the pictures that are done, and all of them.

    Raises
    ------
    DataError
        If there is no photograph, or the folder holds other files or cannot be written.
    ImageError
        If a photograph cannot be read, or is too small.
    MismatchError
        If the folder holds a set of other options, photographs or versions of the libraries.
    FormatError
        If the summary of the folder is damaged.
    """
    threads = check_threads(workers)
    sources = [Path(path) for path in (_shipped() if photos is None else photos)]
    if not sources:
        raise DataError("a stand-in needs a photograph to be made from, got none")
    boxes = _landmarks(sources)
    with system_errors(f"{folder}: the stand-in cannot be written (what is written is kept)", DataError):
        identity = _prepared(folder, name, options, sources)
        shots = _shots(options, sources, boxes)
        chunks = _chunks(shots)
        known = _known(folder)
        left = [chunk for chunk in chunks if not all(_is_whole(folder, shot, known) for shot in chunk)]
        done = len(shots) - sum(map(len, left))
        if progress is not None:
            progress(done, len(shots))

        def told(count: int) -> None:
            if progress is not None:
                progress(done + sum(map(len, left[:count])), len(shots))

        made = in_threads(lambda i: _render(folder, left[i], options, sources, boxes), len(left), threads, told)
        known.update((record.name, record) for records in made for record in records)
        truth = _truth([known[shot.name] for shot in shots], boxes, options)
        ground_truth = folder / f"gnd_{name}.pkl"
        save_ground_truth(ground_truth, truth)
        _write(folder / GEOMETRY, "".join(f"{known[shot.name].to_json()}\n" for shot in shots).encode())
        counts = {field: sum(map(len, getattr(truth, field))) for field in ("easy", "hard", "junk")}
        summary = {**identity, "complete": True, "landmarks": boxes, "counts": counts}
        _write(folder / SUMMARY, json.dumps(summary, indent=1).encode())
        shutil.rmtree(folder / _PARTS)
    return StandIn(folder / _PICTURES, ground_truth, len(shots) - done)


def _shipped() -> list[Path]:
    from importlib.resources import files

    return [Path(str(files("sklearn.datasets") / "images" / name)) for name in ("china.jpg", "flower.jpg")]


def _landmarks(photos: Sequence[Path]) -> list[Landmark]:
    """Return the photograph of each landmark, by number, and its box in pixels of it."""
    out: list[Landmark] = []
    enough = len(photos) >= _LANDMARKS
    for number in range(min(_LANDMARKS, len(_QUARTERS) * len(photos))):
        photo, quarter = number % len(photos), _QUARTERS[number // len(photos)]
        height, width = _loaded(photos[photo]).shape[:2]
        left, top = (0.25, 0.25) if enough else (0.5 * quarter[0], 0.5 * quarter[1])
        x0, y0 = left * (width - 1), top * (height - 1)
        out.append((photo, (x0, y0, x0 + (width - 1) / 2, y0 + (height - 1) / 2)))
    return out


def _loaded(path: Path) -> npt.NDArray[np.uint8]:
    photo = load_image(path)
    if min(photo.shape[:2]) < _SMALLEST:
        raise ImageError(str(path), f"is smaller than {_SMALLEST} pixels; leave it out of the folder")
    return photo


def _reduced(photo: npt.NDArray[np.uint8], longest: int) -> tuple[npt.NDArray[np.uint8], Matrix]:
    """Return the photograph, its longer side at most `longest`, and what maps its pixels to the smaller one's."""
    factor = min(1.0, longest / max(photo.shape[:2]))
    height, width = (round(side * factor) for side in photo.shape[:2])
    x, y = width / photo.shape[1], height / photo.shape[0]  # the middle of the first pixel is at 0, 0
    to_smaller = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
    return (photo if factor == 1 else resize(photo, width, height, "area")), to_smaller


def _shots(options: Options, photos: Sequence[Path], boxes: Sequence[Landmark]) -> list[_Shot]:
    """Return all pictures: the gallery in an order that says nothing, then the queries by landmark."""
    aimed = max(1, options.images // 4)
    gallery: list[_Shot] = []
    for number in range(aimed):
        turn, landmark = divmod(number, len(boxes))
        name = f"landmark{landmark:02d}_{turn:06d}"
        level = _LEVELS[turn % len(_LEVELS)]
        gallery.append(_Shot(name, "landmark", number, boxes[landmark][0], landmark, level))
    others = sorted(set(range(len(photos))) - {photo for photo, _ in boxes})
    for number in range(options.images - aimed):
        photo = others[number % len(others)] if others else len(photos) + number // _OF_A_SCENE
        gallery.append(_Shot(f"other_{number:06d}", "other", number, photo, None, "anywhere"))
    order = np.random.default_rng([options.seed, _ORDER]).permutation(len(gallery))
    queries = []
    for number in range(options.queries):
        turn, landmark = divmod(number, len(boxes))
        name = f"landmark{landmark:02d}_query{turn:03d}"
        queries.append(_Shot(name, "query", number, boxes[landmark][0], landmark, "mild"))
    return [*(gallery[i] for i in order), *sorted(queries)]


def _chunks(shots: Iterable[_Shot]) -> list[list[_Shot]]:
    """Return the pictures in parts of one photograph each, so that it is read once for many."""
    of_photo: dict[int, list[_Shot]] = {}
    for shot in shots:
        of_photo.setdefault(shot.photo, []).append(shot)
    return [some[i : i + _CHUNK] for some in of_photo.values() for i in range(0, len(some), _CHUNK)]


def _render(
    folder: Path, chunk: Sequence[_Shot], options: Options, photos: Sequence[Path], boxes: Sequence[Landmark]
) -> list[Record]:
    """Write the pictures of a chunk, then their records: these say that the pictures are whole."""
    number = chunk[0].photo
    whole = _loaded(photos[number]) if number < len(photos) else _scene(number - len(photos), options)
    photo, to_smaller = _reduced(whole, 2 * options.side)
    records = []
    for shot in chunk:
        region = None
        if shot.landmark is not None and shot.level != "anywhere":
            region = _mapped_box(to_smaller, boxes[shot.landmark][1])
        kind = ("query", "landmark", "other").index(shot.kind)
        rng = np.random.default_rng([options.seed, kind, shot.number])
        view, homography = random_view(photo, _views(options.side, shot.level), rng, region=region)
        bgr = cv2.cvtColor(view, cv2.COLOR_RGB2BGR)
        _, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        data = coded.tobytes()
        _write(folder / _PICTURES / f"{shot.name}.jpg", data)
        exact = homography @ to_smaller
        digest = hashlib.sha256(data).hexdigest()
        records.append(Record(shot.name, shot.kind, shot.photo, shot.landmark, exact / exact[2, 2], digest))
    text = "".join(f"{record.to_json()}\n" for record in records)
    _write(folder / _PARTS / f"{chunk[0].name}.jsonl", text.encode())
    return records


def _views(side: int, level: Level) -> ViewsConfig:
    turn, jitter, aspect, grey = (5, 0.04, 0.1, 0) if level == "mild" else (25, 0.25, 0.8, 0.2)
    crop = (0.25, 0.7)  # of views that are not aimed at a landmark
    return ViewsConfig(
        count=2, size=side, crop=crop, rotation_deg=turn, corner_jitter=jitter, aspect=aspect, grey=grey
    )


def _scene(number: int, options: Options) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng([options.seed, _SCENE, number])
    draw = list(SCENES.values())[number % len(SCENES)]
    drawn = draw(rng, 3 * options.side // 2, 2 * options.side)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _mapped_box(matrix: Matrix, box: Box) -> Box:
    (x0, y0), (x1, y1) = cv2.perspectiveTransform(np.array([[box[:2], box[2:]]]), matrix)[0].tolist()
    return x0, y0, x1, y1


def shown(homographies: Matrix, points: Matrix, side: int) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Return where points of a photograph are in its pictures (N, P, 2), and whether they are in sight (N, P).

    Parameters
    ----------
    homographies : (N, 3, 3) float64
    points : (P, 2) float64
        x, y in pixels of the photograph.
    side : int
        Of the pictures.
    """
    x = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ homographies.transpose(0, 2, 1)
    at = x[:, :, :2] / x[:, :, 2:]
    return at, (x[:, :, 2] > 0) & (at >= 0).all(2) & (at <= side - 1).all(2)


def relations(query: Record, others: Sequence[Record], box: Box, side: int) -> list[str | None]:
    """Return what each picture of the query's photograph is to it: "easy", "hard", "junk", or None: a negative.

    Parameters
    ----------
    query, others : Record
    box : (x0, y0, x1, y1)
        Of the query's landmark, in pixels of the photograph.
    side : int
        Of the pictures.
    """
    if not others:
        return []
    points = _samples(box)
    at, here = (array[0] for array in shown(query.homography[None], points, side))
    homographies = np.stack([other.homography for other in others])
    _, there = shown(homographies, points[here], side)
    overlap = there.mean(axis=1)
    between = homographies @ np.linalg.inv(query.homography)
    stretched = np.linalg.svd(_derivative(between, at[here].mean(axis=0)), compute_uv=False)
    scale = np.sqrt(stretched[:, 0] * stretched[:, 1])
    change, stretch = np.maximum(scale, 1 / scale), stretched[:, 0] / stretched[:, 1]
    fits = [(overlap >= o) & (change <= c) & (stretch <= s) for o, c, s in (_EASY, _HARD)]
    kinds = np.select([overlap == 0, *fits], ["", "easy", "hard"], "junk")
    return [str(kind) or None for kind in kinds]


def _samples(box: Box) -> Matrix:
    columns, rows = np.meshgrid(np.linspace(box[0], box[2], _GRID), np.linspace(box[1], box[3], _GRID))
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def _derivative(homographies: Matrix, point: Matrix) -> Matrix:
    """Return the (N, 2, 2) Jacobians of homographies at a point."""
    x = homographies @ np.array([*point, 1.0])
    outer = x[:, :2, None] * homographies[:, 2:, :2]
    return np.asarray((homographies[:, :2, :2] * x[:, 2:, None] - outer) / x[:, 2:, None] ** 2)


def _truth(records: Sequence[Record], boxes: Sequence[Landmark], options: Options) -> GroundTruth:
    """Return what the pictures are to the queries, by their homographies alone."""
    gallery = [record for record in records if record.kind != "query"]
    queries = [record for record in records if record.kind == "query"]
    seen_boxes = []
    lists: dict[str, list[npt.NDArray[np.int64]]] = {"easy": [], "hard": [], "junk": []}
    for query in queries:
        assert query.landmark is not None
        box = boxes[query.landmark][1]
        at, here = (array[0] for array in shown(query.homography[None], _samples(box), options.side))
        seen_boxes.append([*at[here].min(axis=0), *at[here].max(axis=0)])
        places = [i for i, record in enumerate(gallery) if record.photo == query.photo]
        found = relations(query, [gallery[i] for i in places], box, options.side)
        for kind, each in lists.items():
            each.append(np.array([i for i, k in zip(places, found, strict=True) if k == kind], np.int64))
    return GroundTruth(
        tuple(record.name for record in gallery),
        tuple(record.name for record in queries),
        np.array(seen_boxes),
        tuple(lists["easy"]),
        tuple(lists["hard"]),
        tuple(lists["junk"]),
    )


def _prepared(folder: Path, name: str, options: Options, photos: Sequence[Path]) -> dict[str, Any]:
    """Make the folder ready, or refuse it before anything is changed; return what its set is determined by."""
    identity = {
        "format": _FORMAT,
        "name": name,
        **asdict(options),
        "photographs": [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in photos],
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }
    summary = folder / SUMMARY
    if summary.exists():
        _check_same(summary, identity)
    elif folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise DataError(f"{folder}: holds other files; name an empty folder or a new one")
    for each in (_PICTURES, _PARTS):
        (folder / each).mkdir(parents=True, exist_ok=True)
    if not summary.exists():
        _write(summary, json.dumps({**identity, "complete": False}, indent=1).encode())
    return identity


def _check_same(summary: Path, wanted: dict[str, Any]) -> None:
    try:
        found = {key: json.loads(summary.read_text(encoding="utf-8"))[key] for key in wanted}
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{summary}: is damaged ({error!r}); delete the folder and run again") from error
    other = ", ".join(key for key, value in wanted.items() if found[key] != value)
    if other:
        raise MismatchError(
            f"{summary.parent}: holds a set of other {other}; use the same ones again, or another folder"
        )


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path, durable=False) as temporary:
        temporary.write_bytes(data)


def _known(folder: Path) -> dict[str, Record]:
    """Return the records of an earlier call; lines that are damaged are passed over, and made again."""
    known = {}
    for path in (folder / GEOMETRY, *sorted((folder / _PARTS).glob("*.jsonl"))):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            try:
                record = Record.from_json(line)
            except (ValueError, KeyError, TypeError):
                continue
            known[record.name] = record
    return known


def _is_whole(folder: Path, shot: _Shot, known: dict[str, Record]) -> bool:
    path = folder / _PICTURES / f"{shot.name}.jpg"
    if shot.name not in known or not path.is_file():
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == known[shot.name].sha256
