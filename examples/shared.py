"""What the examples share: the shipped model, scenes to try it on, and how each is called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointing.scenes import SceneOptions, write_scenes

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "models" / "tiny"


@dataclass(frozen=True, slots=True)
class Given:
    """What an example is run with: the model's folder, photos, and where it writes."""

    model: Path
    photos: Sequence[Path]
    out: Path


def read_arguments(about: str, name: str, *, negative: float = 0.1) -> Given:
    """Photos and --model from the command line; without them eight scenes and the shipped model.

    `negative` is the share of scenes in which nobody points.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("photos", nargs="*", type=Path, help="default: eight synthetic scenes")
    parser.add_argument("--model", type=Path, help="an exported model; default: the shipped small one")
    parser.add_argument("--out", type=Path, default=Path("runs/examples") / name, help="folder to write")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    photos = given.photos or scenes(given.out / "scenes", negative)
    return Given(given.model or SHIPPED, photos, given.out)


def scenes(folder: Path, negative: float) -> list[Path]:
    """Eight scenes of a test split, which no model was trained on."""
    write_scenes(folder, train=0, validation=0, test=8, seed=3, options=SceneOptions(negative=negative))
    return sorted((folder / "images").iterdir())
