"""Pairs of photographs of one place, found in a user's own folder by search and verification, to train on.

`mine` finds the pairs, `geometry` fits their homographies, `folder` does everything from a folder to a file.
"""
