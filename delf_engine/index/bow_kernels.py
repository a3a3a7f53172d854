"""Numba kernels that weigh and score the postings of a bag of words.

Imported only by functions that run them: numba takes a while to load. Sums are in float64 and by ascending word,
so that they are the same bits with any number of segments.
"""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["add_squares", "score_counts"]


@njit(cache=True, nogil=True)
def add_squares(weights: Any, word_offsets: Any, image_ids: Any, counts: Any, squares: Any) -> Any:
    """Add the squared length of each image's vector to `squares`.

    Parameters
    ----------
    weights : (W,) float64
        Of each word.
    word_offsets : (W + 1,) int64
        Where the postings of each word begin.
    image_ids : (P,) int32
    counts : (P, 1) int32
        How often the image has the word.
    squares : (n,) float64
        Added to.

    Returns
    -------
    bool
        False if the arrays point outside each other: they are damaged.
    """
    for word in range(len(weights)):
        begin, end = word_offsets[word], word_offsets[word + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
        for p in range(begin, end):
            image = image_ids[p]
            if image < 0 or image >= len(squares):
                return False
            component = counts[p, 0] * weights[word]
            squares[image] += component * component
    return True


@njit(cache=True, nogil=True)
def score_counts(
    query_words: Any, query: Any, weights: Any, word_offsets: Any, image_ids: Any, counts: Any, scores: Any
) -> Any:
    """Add one query's products with the vectors of the images of one segment.

    Parameters
    ----------
    query_words : (Q,) int32
        Ascending.
    query : (Q,) float64
        The query's vector at these words.
    weights, word_offsets, image_ids, counts
        As of `add_squares`.
    scores : (n,) float64
        Added to.

    Returns
    -------
    bool
        False if the arrays point outside each other: they are damaged.
    """
    for q in range(len(query_words)):
        word = query_words[q]
        begin, end = word_offsets[word], word_offsets[word + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
        for p in range(begin, end):
            image = image_ids[p]
            if image < 0 or image >= len(scores):
                return False
            scores[image] += query[q] * (counts[p, 0] * weights[word])
    return True
