"""Mining on real photographs: two buildings, and a resized copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from delf_engine.mining.folder import mine_folder
from helpers import write_image


@pytest.mark.timeout(900)
def test_two_buildings_stay_apart_and_a_copy_is_no_pair(data: Path, tmp_path: Path) -> None:
    photos = [data / "strecha" / scene / f"{n:04}.jpg" for scene in ("castle", "herzjesu") for n in (3, 4, 5)]
    with Image.open(photos[0]) as image:
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    copy = write_image(tmp_path / "copy.jpg", half, quality=60)
    found = mine_folder([*photos, copy], tmp_path / "pairs.jsonl", workers=1)
    assert found.groups == (4, 3)
    assert found.duplicates == 1
    assert {Path(name).name for pair in found.pairs for name in (pair.a, pair.b)} >= {"copy.jpg", "0003.jpg"}
    for pair in found.pairs:
        assert "herzjesu" not in pair.a + pair.b or Path(pair.a).parent == Path(pair.b).parent
