"""Attention over sequences that lie end to end, told apart by where they start: no mask is ever built.

    [tokens, heads, size] + starts [0, 5, 9, ...]  --CUDA, 16 bit--> torch's varlen kernel (FlashAttention), one call
                                                   --elsewhere-----> sdpa over all sequences of one length at a time

transformers calls it by the name VARLEN, for the language model and the vision tower alike: once in every block. The
name holds "flash", which is how transformers' models know to hand over starts instead of a mask or a loop of calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

VARLEN = "pointvg_flash_varlen"
_GROUPED = "enable_gqa" in signature(varlen_attn).parameters  # torch 2.11 has not


def use_varlen(model: Any) -> None:
    """Makes one loaded model attend by starts, language model and vision tower."""
    # transformers' own switch looks a name with "flash" up among packages and on the hub.
    for config in (model.config, model.config.text_config, model.config.vision_config):
        config._attn_implementation = VARLEN


def attend(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, *, causal: bool, scale: float | None
) -> Tensor:
    """Attention within each of S sequences of T tokens in all: [T, heads, size] in and out.

    Args:
        query: [T, H, D].
        key, value: [T, K, D]; K divides H, and each serves H / K heads (grouped-query attention).
        starts: [S + 1] int32: where each sequence begins, and T.
        longest: tokens of the longest sequence, or more.
        causal: whether a token sees none after it.
        scale: of the products; None for 1 / sqrt(D).
    """
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return by_kernel(query, key, value, starts, longest, causal=causal, scale=scale)
    lengths = [end - start for start, end in pairwise(starts.tolist())]
    return by_length(lengths, query, key, value, causal=causal, scale=scale)


def by_kernel(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, *, causal: bool, scale: float | None
) -> Tensor:
    """The same by torch's varlen kernel: on a GPU in 16 bit, or of tensors without data."""
    window = (-1, 0) if causal else (-1, -1)
    group = query.shape[1] // key.shape[1]
    if group > 1 and not _GROUPED:
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))
    options: dict[str, Any] = {"enable_gqa": group > 1} if _GROUPED else {}
    mixed = varlen_attn(query, key, value, starts, starts, longest, longest, scale=scale, window_size=window, **options)
    assert isinstance(mixed, Tensor)  # a pair where more was asked for
    return mixed


def by_length(
    lengths: Sequence[int], query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float | None
) -> Tensor:
    """The same, all sequences of one length in one call."""
    if len(set(lengths)) == 1:
        return _equal(query, key, value, lengths[0], causal, scale)
    order: list[Tensor] = []
    parts: list[Tensor] = []
    each = torch.tensor(lengths, device=query.device)
    first = each.cumsum(0) - each
    for length in sorted(set(lengths)):
        index = (first[each == length][:, None] + torch.arange(length, device=query.device)).flatten()
        order.append(index)
        parts.append(_equal(query[index], key[index], value[index], length, causal, scale))
    return torch.cat(parts)[torch.argsort(torch.cat(order))]


def _equal(query: Tensor, key: Tensor, value: Tensor, length: int, causal: bool, scale: float | None) -> Tensor:
    q, k, v = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=k.shape[1] != q.shape[1])
    return mixed.transpose(1, 2).flatten(0, 1)


def _varlen(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers' models call it: [B, heads, T, size] in, [B, T, heads, size] out."""
    if attention_mask is not None or sliding_window is not None:
        raise ValueError("this attention takes neither a mask nor a sliding window; set model.attention=sdpa")
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    causal = module.is_causal if is_causal is None else is_causal
    mixed = attend(q, k, v, cu_seq_lens_q, max_length_q, causal=causal, scale=scaling)
    return mixed.unflatten(0, (query.shape[0], -1)), None


AttentionInterface.register(VARLEN, _varlen)
AttentionMaskInterface.register(VARLEN, flash_attention_mask)
