import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.importing.crc32c import crc32c, mask
from importing.tensorflow_files import masked, oracle_crc


@pytest.mark.parametrize(
    ("data", "expected"),  # RFC 3720, B.4, and the usual check value
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_known_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
    assert oracle_crc(data) == expected


@given(st.binary(max_size=300), st.integers(0, 300))
def test_equals_the_definition_and_goes_on_from_a_part(data: bytes, cut: int) -> None:
    assert crc32c(data) == oracle_crc(data)
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)
    assert mask(crc32c(data)) == masked(oracle_crc(data))


def test_takes_arrays() -> None:
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283
