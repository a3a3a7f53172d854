from __future__ import annotations

import inspect
import pickle

import pytest

from delf_engine import errors
from delf_engine.errors import DelfEngineError, DelfEngineWarning, ImageError

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, DelfEngineError) and kind is not DelfEngineError
]


def test_all_lists_every_type() -> None:
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in (*KINDS, DelfEngineError, DelfEngineWarning))


@pytest.mark.parametrize("kind", KINDS)
def test_one_except_catches_all_and_workers_can_send_them(kind: type[DelfEngineError]) -> None:
    error = ImageError("a.jpg", "is broken") if kind is ImageError else kind("what was wrong")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  # as worker processes do
    assert type(back) is kind
    assert str(back) == str(error)
    with pytest.raises(DelfEngineError):
        raise back


def test_image_error_names_the_file() -> None:
    error = ImageError("a.jpg", "is broken")
    assert str(error) == "a.jpg: is broken"
    assert (error.source, error.reason) == ("a.jpg", "is broken")


def test_warnings_are_no_errors() -> None:
    assert issubclass(DelfEngineWarning, UserWarning)
    assert not issubclass(DelfEngineWarning, DelfEngineError)
