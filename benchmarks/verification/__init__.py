"""Pairs: how fast and how rightly they are verified, and when two photographs show the same place."""
