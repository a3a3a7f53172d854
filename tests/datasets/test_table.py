from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.datasets import KNOWN, definition, parse_parts
from delf_engine.downloads import file_sha256
from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation import load_ground_truth


def test_every_set_is_described_in_full() -> None:
    assert list(KNOWN) == ["roxford5k", "rparis6k", "revisitop1m", "gldv2-index", "gldv2-test"]
    for name, known in KNOWN.items():
        assert known.name == name
        assert known.title
        assert known.licence
        assert known.citation
        assert known.homepage.startswith("http")
        urls = [source.url for source in (*known.files, *known.archives)]
        assert all(re.fullmatch(r"https?://[a-z0-9.]+/\S+", url) for url in urls)
        assert len({archive.name for archive in known.archives}) == len(known.archives) == len(known.numbers)
        assert all(archive.about > 0 for archive in known.archives)
        paths = {file.path for file in known.files}
        assert {path for path in (known.ground_truth, known.listing, known.solution) if path} <= paths
        assert (known.ground_truth is None) != (known.listing is None)


def test_addresses_of_parts() -> None:
    assert KNOWN["revisitop1m"].archive(1).url.endswith("/revisitop1m/jpg/revisitop1m.1.tar.gz")
    assert KNOWN["revisitop1m"].archive(100).url.endswith("/revisitop1m.100.tar.gz")
    index = KNOWN["gldv2-index"]
    assert index.archive(7).url == "https://s3.amazonaws.com/google-landmark/index/images_007.tar"
    assert index.archive(7).md5_url == "https://s3.amazonaws.com/google-landmark/md5sum/index/md5.images_007.txt"
    assert index.numbers == range(100)
    assert KNOWN["gldv2-test"].archive(19).name == "images_019.tar"


def test_the_official_ground_truths_are_the_ones_that_are_pinned(data: Path) -> None:
    for name in ("roxford5k", "rparis6k"):
        (file,) = KNOWN[name].files
        path = data / "revisited" / file.path
        assert file_sha256(path) == file.sha256
        truth = load_ground_truth(path)
        named = {*truth.names, *truth.query_names}
        assert (len(named), len(truth)) == (KNOWN[name].count, KNOWN[name].queries)
        assert not {f"{name}.jpg" for name in named} & KNOWN[name].corrupt
    assert len(KNOWN["rparis6k"].corrupt) == 20


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"no data set 'roxford'; known are roxford5k, .* Did you mean 'roxford5k'"
    ):
        definition("roxford")
    with pytest.raises(DataError, match=r"no data set '';.*gldv2-test$"):
        definition("")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", (0,)), ("0-9", tuple(range(10))), ("3,1-2, 2 ,99", (1, 2, 3, 99)), ("007", (7,)), ("4-4", (4,))],
)
def test_parts(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_parts(text, KNOWN["gldv2-index"]) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "2-1", "1;2", "1,,2", "1.5", "9" * 30, "٣"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"parts are numbers and ranges such as 0-9,12"):
        parse_parts(text, KNOWN["gldv2-index"])


@pytest.mark.parametrize(("name", "text"), [("gldv2-index", "95-100"), ("revisitop1m", "0"), ("roxford5k", "2")])
def test_parts_that_there_are_not(name: str, text: str) -> None:
    first, last = KNOWN[name].numbers[0], KNOWN[name].numbers[-1]
    with pytest.raises(ConfigError, match=f"{name} has the parts {first} to {last}, not {text}"):
        parse_parts(text, KNOWN[name])


@given(st.sets(st.integers(0, 99), min_size=1))
def test_parts_are_read_in_any_order(numbers: set[int]) -> None:
    text = ",".join(map(str, numbers))
    assert parse_parts(text, KNOWN["gldv2-index"]) == tuple(sorted(numbers))
    assert parse_parts(f"{text},{text}", KNOWN["gldv2-index"]) == tuple(sorted(numbers))
