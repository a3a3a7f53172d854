"""Candidates: time, space and accuracy of the indexes, their codebooks and the search for words."""
