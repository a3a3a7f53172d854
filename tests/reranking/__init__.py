"""A package, so that `index.kinds` is what tests import, and not the benchmark of the same name."""
