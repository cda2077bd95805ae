"""What the examples share: the shipped model as a run exports one, scenes to try it on, and how each is called."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointing.scenes import SceneOptions, write_scenes
from policy.state.model_card import Card
from policy.state.release import Lengths, release
from schemas.config import Data

ROOT = Path(__file__).resolve().parents[1]
SIDE = 112  # pixels of an image as the shipped model sees it


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
    return Given(given.model or shipped_model(given.out / "model"), photos, given.out)


def scenes(folder: Path, negative: float) -> list[Path]:
    """Eight scenes of a test split, which no model was trained on."""
    write_scenes(folder, train=0, validation=0, test=8, seed=3, options=SceneOptions(negative=negative))
    return sorted((folder / "images").iterdir())


def shipped_model(folder: Path) -> Path:
    """models/tiny in the form in which every run exports its model."""
    shutil.copytree(ROOT / "models" / "tiny", folder, dirs_exist_ok=True)
    data = Data(train_files="-", min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE, prompt_style="short")
    release(folder, data, Lengths(max_turns=2, max_new_tokens=160), Card("models/tiny", "nothing", {}, {}))
    return folder
