"""The journal: what a stop leaves is used again, what is damaged is not, what is foreign is kept."""

from __future__ import annotations

import json
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.config import RankingConfig, RerankingConfig, load_profile
from delf_engine.errors import DelfEngineWarning, FormatError, LockedError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch
from forkserver import Child
from helpers import raises, random_features, seen_again

VERIFICATION = load_profile("default").verification
INLIERS = RankingConfig(score="inliers", exponent=3.0, blend=0.0)
NAMES = [f"q{k}" for k in range(8)]
EACH = 4


def make_world(seed: int = 5) -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures], dict[str, list[Any]]]:
    """Eight queries with four candidates each that no other query has."""
    rng = np.random.default_rng(seed)
    queries = {name: random_features(rng, 40, 8) for name in NAMES}
    images = {f"{q}-{i}": seen_again(rng, f, 10 * i) for q, f in queries.items() for i in range(EACH)}
    return queries, images, {q: [(f"{q}-{i}", 1 - i / 10) for i in range(EACH)] for q in NAMES}


QUERIES, IMAGES, SHORTLISTS = make_world()


class Images:
    """The candidates' features; counts from which queries' lists they were read."""

    def __init__(self, images: dict[str, LocalFeatures] = IMAGES) -> None:
        self.images = images
        self.reads: Counter[str] = Counter()

    def __call__(self, image_id: str) -> LocalFeatures | None:
        self.reads[image_id.partition("-")[0]] += 1
        return self.images.get(image_id)


def run(checkpoint: Path | None, source: Any = IMAGES, **options: Any) -> dict[str, list[RankedCandidate]]:
    given: dict[str, Any] = {
        "reranking": RerankingConfig(top_n=100),
        "verification": VERIFICATION,
        "ranking": INLIERS,
        "workers": 1,
        **options,
    }
    queries, shortlists = given.pop("queries", QUERIES), given.pop("shortlists", SHORTLISTS)
    progress = given.pop("progress", None)
    return rerank_batch(
        queries, shortlists, source, RerankOptions(**given), progress=progress, checkpoint=checkpoint
    )


def again(checkpoint: Path, **options: Any) -> tuple[dict[str, list[RankedCandidate]], list[str]]:
    """Run with the journal; return the rankings, and the queries whose candidates were read for it."""
    source = Images(options.pop("images", IMAGES))
    return run(checkpoint, source, **options), sorted(source.reads)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[RankedCandidate]]:
    return run(None)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with all queries finished."""
    path = tmp_path / "journal"
    run(path)
    return path


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("finished", [0, 1, 5, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_only_what_is_unfinished_is_verified_again(
    journal: Path, expected: Any, finished: int, workers: int
) -> None:
    whole, done = journal.read_bytes(), []
    journal.write_bytes(b"".join(lines_of(journal)[: 1 + finished]))
    given = {"workers": workers, "progress": lambda pairs, total: done.append(pairs)}
    assert again(journal, **given) == (expected, NAMES[finished:])
    assert done[-1] == len(NAMES) * EACH
    assert sorted(journal.read_bytes()) == sorted(whole)
    assert again(journal) == (expected, [])


def test_another_ranking_rule_needs_no_new_verification(journal: Path) -> None:
    weighted = RankingConfig(score="weighted", exponent=3.0, blend=0.5, cap=30.0)
    assert again(journal, ranking=weighted) == (run(None, ranking=weighted), [])


def _line(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _flipped(content: bytes, byte: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    place = sum(map(len, lines[:3])) + len(lines[3]) // 2
    return content[:place] + byte + content[place + 1 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "torn": (lambda content: content[:-20], ["q7"]),
    "without its end": (lambda content: content[:-1], ["q7"]),
    "garbage behind": (lambda content: content + b"\0" * 100, []),
    "a byte": (lambda content: _flipped(content, b"\1"), ["q2"]),
    "an end of a line": (lambda content: _flipped(content, b"\n"), ["q2"]),
    "no records": (lambda content: content + b"".join(map(_line, (b"{", b"7", b"{}", b'{"query":"q0"}'))), []),
    "empty": (lambda content: b"", NAMES),
    "half a first line": (lambda content: content[:50], NAMES),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_verified_again(journal: Path, expected: Any, damage: str) -> None:
    spoil, lost = DAMAGES[damage]
    journal.write_bytes(spoil(journal.read_bytes()))
    assert again(journal) == (expected, lost)
    assert again(journal) == (expected, [])


@pytest.mark.parametrize(
    "content", [b"\n", b"my notes\n", b"\xff\xd8\xff\xe0", b'{"format":"delf-engine reranking"}\n']
)
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with raises(FormatError):
        run(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"verification": VERIFICATION.model_copy(update={"residual_px": 8.0})},
        {"ranking": INLIERS.model_copy(update={"exponent": 2.0})},
    ],
    ids=["seed", "residual", "exponent"],
)
def test_other_options_and_versions_are_refused(journal: Path, options: dict[str, Any]) -> None:
    before = journal.read_bytes()
    with raises(MismatchError, str(journal)):
        run(journal, **options)
    assert journal.read_bytes() == before
    first, *rest = lines_of(journal)
    journal.write_bytes(_line(json.dumps(json.loads(first[9:]) | {"version": 99}).encode()) + b"".join(rest))
    with raises(MismatchError, str(journal)):
        run(journal)


def test_changed_queries_and_shortlists_are_verified_again(journal: Path) -> None:
    old = QUERIES["q1"]
    moved = LocalFeatures(old.keypoints + 1, old.scales, old.scores, old.descriptors, old.image_size)
    queries = {**QUERIES, "q1": moved}
    shortlists = {**SHORTLISTS, "q2": SHORTLISTS["q2"][::-1], "q3": SHORTLISTS["q3"][:2], "q4": SHORTLISTS["q4"]}
    found, read = again(journal, queries=queries, shortlists=shortlists)
    assert read == ["q1", "q2", "q3"]
    assert found == run(None, queries=queries, shortlists=shortlists)
    assert again(journal, queries=queries, shortlists=shortlists) == (found, [])  # the last line of a query counts


def test_other_first_scores_change_nothing(journal: Path, tmp_path: Path) -> None:
    halved = {q: [(name, score / 2) for name, score in found] for q, found in SHORTLISTS.items()}
    assert again(journal, shortlists=halved) == (run(None, shortlists=halved), [])
    capped: dict[str, Any] = {
        "ranking": INLIERS.model_copy(update={"cap": 10.0}),
        "reranking": RerankingConfig(top_n=100, top_k=1),
    }
    path = tmp_path / "capped"
    assert again(path, **capped)[1] == NAMES
    assert again(path, **capped)[1] == []
    assert again(path, shortlists=halved, **capped)[1] == []


def test_missing_features_are_reported_again_and_verified_once_they_are_there(
    tmp_path: Path, expected: Any
) -> None:
    path = tmp_path / "journal"
    fewer = {name: features for name, features in IMAGES.items() if name != "q3-2"}
    for _ in range(2):
        with pytest.warns(DelfEngineWarning, match=r"1 \('q3-2'\)"):
            assert run(path, fewer)["q3"][-1].id == "q3-2"
    with raises(UnknownIdError, "q3-2"):
        run(path, fewer, on_missing="raise")
    assert again(path) == (expected, ["q3"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again(path) == (expected, [])


def test_queries_that_time_was_not_enough_for_are_not_finished(tmp_path: Path, expected: Any) -> None:
    path = tmp_path / "journal"
    rng = np.random.default_rng(1)
    more = {f"m-{i}": random_features(rng, 5, 8) for i in range(30)}
    options: dict[str, Any] = {"queries": {"m": QUERIES["q0"]}, "shortlists": {"m": list(more)}, "images": more}
    with pytest.warns(DelfEngineWarning, match="20 pairs"):
        again(path, reranking=RerankingConfig(top_n=100, seconds=1e-9), **options)
    assert len(lines_of(path)) == 1
    assert again(path, **options)[1] == ["m"]
    assert len(lines_of(path)) == 2


def test_ids_of_any_kind(tmp_path: Path) -> None:
    odd = ["", "a\nb", "\0", '"', "né", "\ud800"]
    images = dict(zip(odd, IMAGES.values(), strict=False))
    options: dict[str, Any] = {
        "queries": dict.fromkeys(odd, QUERIES["q0"]),
        "shortlists": dict.fromkeys(odd, odd),
    }
    first = run(tmp_path / "journal", images, **options)
    assert run(tmp_path / "journal", lambda _: pytest.fail("read again"), **options) == first


CHILD = """
    import sys
    from pathlib import Path
    from reranking.test_journal import IMAGES, run

    def images(image_id):
        if image_id == "q6-0":
            print("here", flush=True)
            sys.stdin.readline()
        return IMAGES[image_id]

    run(Path(sys.argv[1]), images)
"""


def test_a_second_process_is_refused_and_a_killed_one_resumed(tmp_path: Path, expected: Any) -> None:
    path = tmp_path / "journal"
    process = Child(CHILD, path)
    assert process.stdout.readline() == "here\n"
    with raises(LockedError):
        run(path)
    process.kill()
    process.communicate()
    assert len(lines_of(path)) == 1 + 6
    assert again(path) == (expected, NAMES[6:])
    assert again(path) == (expected, [])


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from reranking.test_journal import run
    from delf_engine.errors import FormatError
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        run(Path(sys.argv[1]))
    except FormatError as error:
        assert sys.argv[1] in str(error), error
        print("refused")
"""


@pytest.mark.parametrize("share", [0.0, 0.55], ids=["first line", "in the middle"])
def test_a_full_disk_leaves_what_is_finished(journal: Path, expected: Any, share: float) -> None:
    limit = 20 + int(share * journal.stat().st_size)
    finished = max(0, sum(sum(map(len, lines_of(journal)[: 1 + k])) <= limit for k in range(1, 9)))
    journal.unlink()
    process = Child(FULL_DISK, journal, limit)
    assert process.communicate() == "refused\n"
    assert process.wait() == 0
    assert again(journal) == (expected, NAMES[finished:])
    assert again(journal) == (expected, [])


READ_ONLY = """
    import os, sys
    from pathlib import Path
    from reranking.test_journal import run
    from delf_engine.errors import FormatError
    if os.geteuid() == 0:  # the superuser may write everywhere
        os.seteuid(65534)
    try:
        run(Path(sys.argv[1]) / "journal")
    except FormatError as error:
        print(error)
"""


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "journal", tmp_path):
        with raises(FormatError, str(place)):
            run(place)
    (tmp_path / "file").unlink()
    tmp_path.chmod(0o555)
    said = Child(READ_ONLY, tmp_path).communicate()
    assert f"{tmp_path}/journal" in said
    assert "Permission denied" in said
    tmp_path.chmod(0o755)
    assert not list(tmp_path.iterdir())
