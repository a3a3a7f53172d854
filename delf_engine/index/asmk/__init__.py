"""ASMK: images as sets of visual words with binary codes, in an inverted file."""
