"""A demonstration that needs no files: views of photographs that scikit-learn ships, or of your own.

`scenes` renders the collection, `run` indexes and searches it.
"""
