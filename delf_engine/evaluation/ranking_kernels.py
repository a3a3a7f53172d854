"""The numba kernel that reads a ranking once: finds its labelled images, and what is wrong with it.

Imported only by the function that runs it.
"""

from __future__ import annotations

from typing import Any

from numba import njit, types

#: The bit of a label that marks an image as met before.
SEEN = 128

# Both compiled at once, and kept: rankings may be read-only, and a writeable array goes for one as well.
_SIGNATURES = [
    types.int64(
        types.Array(index, 1, "C", readonly=True),
        types.Array(types.uint8, 1, "C"),
        types.Array(types.int64, 1, "C"),
        types.Array(types.uint8, 1, "C"),
    )
    for index in (types.int32, types.int64)
]


@njit(_SIGNATURES, cache=True, nogil=True)
def labelled_places(order: Any, table: Any, places: Any, labels: Any) -> Any:
    """Write where a ranking holds labelled images; return their number, or -1 for a ranking that is wrong.

    Wrong: an index beyond the table, or one that occurs twice. `order` holds indices of images, best first;
    `table` the label of each image, below 128, 0 for none: images that were met get the bit `SEEN`. Places from 0,
    ascending, and their labels are written to `places` and `labels`, as long as there are labelled images at
    least.
    """
    count = 0
    for place in range(len(order)):
        image = order[place]
        if image < 0 or image >= len(table):
            return -1
        label = table[image]
        if label:
            if label & SEEN:
                return -1
            places[count] = place
            labels[count] = label
            count += 1
        table[image] = label | SEEN
    return count
