import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from pointing.coordinates import FAMILIES, Frame
from pointing.prompts import PHRASES, transcript
from policy.tiny.model import build_tiny
from policy.tiny.tokenizer import COLOURS, SHAPES, SPECIAL_TOKENS, build_tokenizer, coordinate_ids
from schemas.task import GroundTruth, RaySegment

ARCHITECTURES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
TOKENIZER = build_tokenizer()
EXACT = {"skip_special_tokens": False, "spaces_between_special_tokens": False, "clean_up_tokenization_spaces": False}
TRUTH = GroundTruth(
    hand_bbox=(10, 20, 45, 112),
    pointing_keypoints=((30, 40), (35, 25)),
    pointing_ray=RaySegment(start=(35, 25), end=(80, 0)),
    obj_bbox=(60, 2, 101, 38),
    obj_name="red circle",
)


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text())
def test_any_text_survives_encoding(text: str) -> None:
    assert TOKENIZER.decode(ids_of(text), **EXACT) == text


@given(st.lists(st.sampled_from([*PHRASES, *SPECIAL_TOKENS, *COLOURS, "1", "112", "113", ", ", " ", "\n", "é"])))
def test_any_run_of_pieces_survives_encoding(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert TOKENIZER.decode(ids_of(text), **EXACT) == text


def test_a_transcript_is_a_few_tokens() -> None:
    first, second = transcript(TRUTH, Frame.identity())
    assert TOKENIZER.decode(ids_of(first), **EXACT) == first
    assert len(ids_of(first + "<|im_end|>")) <= 28
    assert len(ids_of(second + "<|im_end|>")) <= 14
    assert len(ids_of(transcript(GroundTruth(stage=1), Frame.identity())[0])) == 1


def test_every_phrase_word_and_coordinate_is_one_token() -> None:
    for text in (*PHRASES, *COLOURS, *(f" {shape}" for shape in SHAPES), *SPECIAL_TOKENS, "0", "7", "112"):
        assert len(ids_of(text)) == 1, text
    assert len(set(coordinate_ids(TOKENIZER))) == 113
    assert len(TOKENIZER) <= 512


def test_the_conversation_is_qwens() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A cup."}]
    assert TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\n"
        "<|im_start|>assistant\nA cup.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, *messages]
    assert TOKENIZER.apply_chat_template(own, tokenize=False).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    without = build_tokenizer(default_system=False)
    assert without.apply_chat_template(messages, tokenize=False).startswith("<|im_start|>user\n")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_loads_the_folder_and_runs_it(architecture: str, tmp_path: Path) -> None:
    folder = build_tiny(tmp_path, architecture, scale=2.0)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    family = FAMILIES[model.config.model_type]
    side = 4 * family.grid
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[image], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]  # already on the grid: not resized
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 16
    with torch.no_grad():
        logits = model(**inputs).logits
        other = model(**{**inputs, "pixel_values": inputs["pixel_values"] + 0.5}).logits
    assert logits.shape[-1] % 64 == 0
    assert logits.std() > 0.3  # far enough from uniform for log-probabilities to mean something
    assert (logits[:, -1] - other[:, -1]).abs().max() > 1e-3  # it sees the image
    assert sum(p.numel() for p in model.parameters()) < 1_000_000


def test_the_seed_fixes_the_weights_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_tiny(tmp_path / name, seed=seed)
    assert torch.equal(torch.rand(3), expected)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_near_coordinates_begin_near_only_when_ordered(tmp_path: Path) -> None:
    near = {}
    for ordinal in (True, False):
        folder = build_tiny(tmp_path / str(ordinal), ordinal=ordinal)
        model = AutoModelForImageTextToText.from_pretrained(folder)
        ids = coordinate_ids(AutoTokenizer.from_pretrained(folder))
        table = torch.nn.functional.normalize(model.get_input_embeddings().weight[ids], dim=1)
        near[ordinal] = (table[:-1] * table[1:]).sum(1).mean().item()
        far = (table[:20] * table[-20:]).sum(1).mean().item()
        assert far < 0.5
    assert near[True] > 0.9
    assert abs(near[False]) < 0.2


VLLM_AGAINST_TRANSFORMERS = """
import sys
import numpy as np, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm import LLM, SamplingParams

folder, side = sys.argv[1], int(sys.argv[2])
processor = AutoProcessor.from_pretrained(folder)
tokenizer = processor.tokenizer
image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
inputs = processor(text=[prompt], images=[image], return_tensors="pt")
llm = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=8, block_size=32,
          kv_cache_memory_bytes=64 << 20, limit_mm_per_prompt={"image": 2, "video": 0}, disable_log_stats=True)
visual = [t for t in tokenizer.all_special_ids if "vision" in tokenizer.decode(t) or "_pad" in tokenizer.decode(t)]
sampling = SamplingParams(max_tokens=24, temperature=1.0, seed=0, logprobs=0, ignore_eos=True,
                          allowed_token_ids=[t for t in range(len(tokenizer)) if t not in visual])
out = llm.generate([{"prompt_token_ids": tokenizer(prompt)["input_ids"], "multi_modal_data": {"image": image}}],
                   sampling, use_tqdm=False)[0]
n = inputs["input_ids"].shape[1]
assert list(out.prompt_token_ids) == inputs["input_ids"][0].tolist()
sampled = list(out.outputs[0].token_ids)
ids = torch.cat([inputs["input_ids"], torch.tensor([sampled])], 1)
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(input_ids=ids, mm_token_type_ids=(ids == model.config.image_token_id).int(),
                   pixel_values=inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"]).logits[0]
ours = logits[n - 1 : -1].log_softmax(-1).gather(1, torch.tensor(sampled)[:, None])[:, 0]
theirs = torch.tensor([entry[token].logprob for entry, token in zip(out.outputs[0].logprobs, sampled)])
difference = (ours - theirs).abs().max().item()
assert len(sampled) == 24 and difference < 5e-5, difference
"""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vllm_samples_with_the_log_probabilities_of_transformers(architecture: str, tmp_path: Path) -> None:
    folder = build_tiny(tmp_path, architecture, scale=2.0)
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    side = str(4 * FAMILIES[architecture].grid)
    command = [sys.executable, "-c", VLLM_AGAINST_TRANSFORMERS, str(folder), side]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
