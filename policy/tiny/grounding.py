"""Grounds the vision of the small model: its visual tokens learn what is where before any transcript is seen.

    seeds -> scenes -> image, and image with the ray drawn -> vision tower -> tokens -> linear heads -> dense loss
                                                              (trained)                 (thrown away)

Every token learns what lies in its own cell (cell_labels.py), and where hand, finger and target lie in the whole scene
(scene_labels.py), so that the language model finds them in whichever token it looks at. A model of this size
learns no vision from transcripts alone in minutes. The language model is left as it is, and no other training in this
project uses these losses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from pointing.coordinates import Size
from pointing.drawing import draw_ray, resize
from pointing.scenes import Scene, SceneOptions, render, seeds
from policy.conversation.model_info import read_info
from policy.network.attention import use_varlen
from policy.network.vision import ImageStats, patchify, read_image_stats, take_single_frames
from policy.tiny.cell_labels import CellHead, cell_loss, label
from policy.tiny.scene_labels import SceneHead, label_scenes, scene_loss

CELLS = 4  # tokens a side: images of 112 pixels, or 128 for Qwen3-VL
RENDERED = 224  # side in pixels at which scenes are drawn, before they are resized as rollouts resize theirs
JITTER = 2.0  # seen pixels, standard deviation of a drawn ray's ends: later the model sees its own rays
WARMUP = 60
MIN_LR_RATIO = 0.03
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
REPORT_EVERY = 100


def ground(
    folder: str | Path,
    out: str | Path,
    *,
    samples: int = 72_000,
    batch_rows: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Trains the vision tower of the checkpoint in `folder` and writes the whole checkpoint to `out`.

    Every scene is seen twice, plain and with its ray drawn, and never again. Returns the loss of every step.

    Args:
        folder: from build_tiny.
        out: created if needed; may be `folder` itself.
        samples: images seen, two for each scene; rounded down to whole batches.
        batch_rows: images in a step, an even number.
        lr: at the peak; linear warm-up, then a cosine.
        seed: of the heads' weights, of the scenes and of the jitter of the rays.

    Raises ValueError when there is not a whole batch of samples or `batch_rows` is odd.
    """
    steps = samples // batch_rows
    if batch_rows % 2 or batch_rows < 2 or steps < 1:
        raise ValueError(
            f"samples={samples}, batch_rows={batch_rows}: batch_rows must be even (an image without and with the ray) "
            "and samples at least one batch"
        )
    info, stats = read_info(str(folder)), read_image_stats(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    use_varlen(model)
    tower = model.model.visual
    take_single_frames(tower)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = model.config.text_config.hidden_size
        cell_head, scene_head = CellHead(width), SceneHead(width)
    trained = [*tower.parameters(), *cell_head.parameters(), *scene_head.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warmup_cosine(step, steps))
    losses: list[float] = []
    for scenes, images in _batches(steps, batch_rows // 2, CELLS * info.family.grid, seed):
        tokens = _tokens(tower, images, stats)
        twice = [*scenes, *scenes]
        loss = cell_loss(cell_head(tokens), label(twice, CELLS), len(images))
        loss = loss + scene_loss(scene_head(tokens), label_scenes(twice, CELLS), CELLS)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), MAX_GRAD_NORM)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % REPORT_EVERY == 0 or len(losses) == steps:
            recent = losses[-REPORT_EVERY:]
            print(f"grounding {len(losses):5d}/{steps}  loss {sum(recent) / len(recent):.3f}", flush=True)
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(folder).save_pretrained(out)
    return losses


def _warmup_cosine(step: int, steps: int) -> float:
    """Factor on the learning rate."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARMUP) * (MIN_LR_RATIO + (1 - MIN_LR_RATIO) * cosine)


def _batches(steps: int, count: int, side: int, seed: int) -> Iterator[tuple[list[Scene], list[Image.Image]]]:
    """Fresh scenes, and their images: first all as they are, then all with their rays."""
    rng = random.Random(seed)
    options = SceneOptions(size=RENDERED)
    numbers = iter(seeds("train", steps * count, seed))
    for _ in range(steps):
        scenes = [render(next(numbers), options) for _ in range(count)]
        plain = [resize(scene.image, Size(side, side)) for scene in scenes]
        yield scenes, [*plain, *(_with_ray(image, scene, rng) for image, scene in zip(plain, scenes, strict=True))]


def _with_ray(image: Image.Image, scene: Scene, rng: random.Random) -> Image.Image:
    """The image with the true ray, its ends off by a little; a negative has none and stays as it is."""
    ray = scene.truth.pointing_ray
    if ray is None:
        return image
    factor, last = image.width / scene.image.width, image.width - 1.0
    start, end = (
        tuple(min(last, max(0.0, value * factor + rng.gauss(0.0, JITTER))) for value in point)
        for point in (ray.start, ray.end)
    )
    try:
        return draw_ray(image, (start[0], start[1]), (end[0], end[1]))
    except ValueError:  # the jitter has joined both ends of a ray that was short
        return image


def _tokens(tower: Any, images: Sequence[Image.Image], stats: ImageStats) -> Tensor:
    """Visual tokens [images x cells, width], in raster order."""
    patches = np.concatenate([patchify(np.asarray(image), stats) for image in images])
    rows, columns = images[0].height // stats.patch, images[0].width // stats.patch
    grids = torch.tensor([[1, rows, columns]] * len(images))
    return tower(torch.from_numpy(patches), grid_thw=grids, return_dict=True).pooler_output
