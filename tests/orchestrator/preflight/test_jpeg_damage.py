"""A JPEG that is broken in its middle decodes without an error; what libjpeg says of it is heard."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.preflight.jpeg_damage import jpeg_damage


def jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_hole_in_the_middle_is_heard(tmp_path: Path, progressive: bool, capfd: pytest.CaptureFixture[str]) -> None:
    whole, file = jpeg(progressive=progressive), tmp_path / "a.jpg"
    file.write_bytes(whole)
    assert jpeg_damage(file) == ""
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes(4000) + whole[middle + 4000 :])
    with Image.open(file) as image:
        image.load()  # Pillow says nothing
    assert "Corrupt JPEG data" in jpeg_damage(file)
    assert capfd.readouterr().err == ""


def test_other_formats_are_not_its_business(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert jpeg_damage(tmp_path / "a.png") == ""
