"""Measurements of the package, one folder a theme; ``python -m benchmarks.THEME.NAME`` from the repository."""
