"""Histograms of inliers: every pair in one column, none in it looks like one."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from delf_engine.plotting.report.benchmark_charts import bins_of, histogram_html, part_svg

COUNTS = st.dictionaries(st.one_of(st.integers(0, 60), st.integers(0, 2**53)), st.integers(0, 2**53), max_size=12)


@given(st.one_of(st.integers(0, 200), st.integers(0, 2**53)), st.one_of(st.none(), st.integers(0, 5000)))
def test_every_count_has_one_column(largest: int, threshold: int | None) -> None:
    bins = bins_of(largest, threshold)
    assert (bins[0].first, bins[0].last) == (0, 0)
    for one, after in pairwise(bins):
        assert one.last is not None
        assert one.first <= one.last == after.first - 1
    for count in {0, 1, largest // 3, largest, threshold or 0}:
        if count <= largest:
            assert sum(count in each for each in bins) == 1
    if threshold is not None and threshold <= min(largest, 4096):
        assert threshold in {each.first for each in bins}
    assert len(bins) < 60


@given(COUNTS, COUNTS, st.one_of(st.none(), st.integers(0, 100)))
def test_columns_hold_all_pairs(
    positives: dict[int, int], negatives: dict[int, int], threshold: int | None
) -> None:
    drawn = histogram_html(Counter(positives), Counter(negatives), threshold)
    for kind, counts in (("positive", positives), ("negative", negatives)):
        said = re.findall(rf"<title>[\d, a-z]+ inliers: ([\d,]+) {kind} pairs?</title>", drawn)
        assert sum(int(number.replace(",", "")) for number in said) == sum(counts.values())
        assert drawn.count(f'<rect class="{kind}"') == len(said)
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"><title>', drawn)]
    assert all(1.5 < height <= 130 for height in heights)
    shown = threshold is not None and threshold <= max([*positives, *negatives, 0])
    assert drawn.count('class="limit"') == (2 if shown else 0)
    assert '="nan' not in drawn


def test_columns_of_a_known_list() -> None:
    drawn = histogram_html(Counter({0: 3, 30: 1}), Counter({4: 1000}), 30)
    for said in (
        "0 inliers: 3 positive pairs",
        "30 to 33 inliers: 1 positive pair<",
        "4 inliers: 1,000 negative pairs",
    ):
        assert said in drawn
    assert ">30</text>" in drawn


def test_parts_of_nothing() -> None:
    assert 'width="0.00%"' in part_svg(0.0, 0.0)
    assert 'width="50.00%"' in part_svg(1e300, 2e300)
