"""Reading plain values of unknown origin: every one knows its key, so that an error names the place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

from delf_engine.errors import FormatError

__all__ = ["Entry"]


class Entry:
    """A value inside a benchmark result, and the keys that lead to it.

    Parameters
    ----------
    value : object
        As JSON gives it.
    key : str
        Such as ``methods[0].setups.easy``; empty for the whole result.
    """

    def __init__(self, value: Any, key: str = "") -> None:
        self.value = value
        self.key = key

    def __getitem__(self, name: str) -> Entry:
        """Return what a mapping holds under `name`; a key that is missing is an error."""
        found = self.get(name)
        if found is None and name not in self._mapping():
            found = Entry(None, self._below(name))
            found.wrong("is missing, and the report needs it")
        return found or Entry(None, self._below(name))

    def get(self, name: str) -> Entry | None:
        """Return what a mapping holds under `name`, or None if that is nothing or null."""
        value = self._mapping().get(name)
        return None if value is None else Entry(value, self._below(name))

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Yield the keys of a mapping as text, and their values."""
        for name, value in self._mapping().items():
            yield str(name), Entry(value, self._below(str(name)))

    def elements(self) -> list[Entry]:
        """Return the elements of a list."""
        if not isinstance(self.value, Sequence) or isinstance(self.value, (str, bytes)):
            self.wrong("must be a list")
        return [Entry(value, f"{self.key}[{i}]") for i, value in enumerate(self.value)]

    def text(self) -> str:
        """Return a text."""
        if not isinstance(self.value, str):
            self.wrong("must be a text")
        return str(self.value)

    def number(self, least: float = -math.inf, most: float = math.inf) -> float:
        """Return a finite number between `least` and `most`."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, Real):
            self.wrong("must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.wrong("must be finite; what is not known is null")
        if not least <= number <= most:
            bounds = f"between {least:g} and {most:g}" if math.isfinite(most) else f"at least {least:g}"
            self.wrong(f"must be {bounds}")
        return number

    def optional_number(self, least: float = -math.inf, most: float = math.inf) -> float | None:
        """Return a number, or None for null."""
        return None if self.value is None else self.number(least, most)

    def count(self) -> int:
        """Return a whole number that is not negative, and small enough for a float to hold it."""
        value = self.value
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not 0 <= int(value) <= 2**53:
            self.wrong("must be a whole number between 0 and 2^53")
        return int(value)

    def wrong(self, what: str) -> NoReturn:
        """Raise a `FormatError` that names this value's key, says what is wrong, and shows the value."""
        shown = "" if self.value is None and what.startswith("is missing") else f", got {_shown(self.value)}"
        raise FormatError(f"benchmark result: {self.key or 'the whole'} {what}{shown}")

    def _mapping(self) -> Mapping[Any, Any]:
        if not isinstance(self.value, Mapping):
            self.wrong("must be an object of keys and values")
        return self.value

    def _below(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        shown = type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
