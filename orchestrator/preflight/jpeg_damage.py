"""Whether a JPEG file is broken in its middle, where Pillow decodes it to grey or shifted blocks and says nothing.

libjpeg notices, and writes a line to the process's stderr; OpenCV, which vLLM brings, passes that on.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_START = b"\xff\xd8"


def jpeg_damage(file: Path) -> str:
    """What libjpeg says of a JPEG file when it decodes all of it; "" of a whole one, and of any other format.

    A few changed bytes that are still a legal code go unnoticed: JPEG has no checksums. Decodes in this process, whose
    stderr is caught meanwhile. Raises OSError where the file cannot be read.
    """
    content = file.read_bytes()
    if not content.startswith(_START):
        return ""
    import cv2  # slow to import, and only looked at here
    import numpy as np

    before = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        finally:
            os.dup2(before, 2)
            os.close(before)
        caught.seek(0)
        said = caught.read().decode(errors="replace").strip()
    if image is None:
        return said or "cannot be decoded"
    return next((line for line in said.splitlines() if "Corrupt JPEG data" in line), "")
