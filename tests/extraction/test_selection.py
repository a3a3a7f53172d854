import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.extraction.selection import select_top

scores = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf]), st.floats(width=32)), max_size=60)


@given(scores, st.integers(1, 70), st.floats(-3, 3, width=32))
def test_equals_a_plain_sort(values: list[float], k: int, least: float) -> None:
    array = np.array(values, np.float32)
    eligible = [i for i, v in enumerate(array) if v >= np.float32(least)]
    expected = sorted(eligible, key=lambda i: (-array[i], i))[:k]
    assert select_top(array, k, least).tolist() == expected


def test_empty() -> None:
    assert len(select_top(np.empty(0, np.float32), 5, 0)) == 0
