"""AdamW whose moments are kept in bfloat16: 4 bytes of state per trained weight in place of 8.

    moments (bfloat16) -> float32 -> updated, used for the step -> stochastically rounded to bfloat16

Rounding to nearest would stop the second moment: one step moves it by 1 - beta2 = 0.001 of itself, bfloat16 resolves
0.004. Rounding up or down at random, in proportion to the distance, keeps the moments right on average.

The random numbers belong to the shard and the step, not to the process: ranks that hold copies of a shard round it
alike, so copies stay equal, and a run that goes on from a checkpoint rounds as if it had not stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")
PIECE = 1 << 24  # weights moved at once: the six float32 copies that it takes are of 64 MiB, not of a whole embedding


def stochastic_bfloat16(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bfloat16, to one of the two neighbours, so that the mean over draws is `x`. x must be finite.

    >>> stochastic_bfloat16(torch.tensor([1.0, -2.5, 0.0]), torch.Generator()).tolist()
    [1.0, -2.5, 0.0]
    """
    noise = torch.randint(0, 1 << 16, x.shape, generator=generator, dtype=torch.int32, device=x.device)
    bits = (x.contiguous().view(torch.int32) + noise) & -(1 << 16)  # the upper half of a float32 is a bfloat16
    return bits.view(torch.float32).to(torch.bfloat16)


class BFloat16AdamW(Optimizer):
    """AdamW (arXiv 1711.05101) over float32 weights, sharded ones too, with the moments in bfloat16."""

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        numbered = enumerate((p, group) for group in self.param_groups for p in group["params"])
        for number, (p, group) in numbered:
            if p.grad is not None:
                self._update(number, p, group)
        return loss

    def _update(self, number: int, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state |= {name: torch.zeros_like(p, dtype=torch.bfloat16) for name in MOMENTS}
        state["step"] += 1
        beta1, beta2 = group["betas"]
        rates = _Rates(group["lr"], group["weight_decay"], group["eps"], beta1, beta2, float(state["step"]))
        whole = [_local(x) for x in (p, p.grad, *(state[name] for name in MOMENTS))]
        generator = _generator(whole[0].device, number, int(state["step"]), *_shard(p))
        for weight, gradient, first, second in zip(*map(_pieces, whole), strict=True):
            _move(weight, gradient, first, second, rates, generator)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a state; its moments come back as bfloat16 (torch casts them to the weights' type: exact both ways)."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state |= {name: state[name].to(torch.bfloat16) for name in MOMENTS}


@dataclass(frozen=True, slots=True)
class _Rates:
    lr: float
    decay: float
    eps: float
    beta1: float
    beta2: float
    step: float


def _move(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rates: _Rates, generator: torch.Generator
) -> None:
    """AdamW's step of one piece, in place; `first` and `second` are its moments in bfloat16."""
    mean = first.float().lerp_(gradient, 1 - rates.beta1)
    square = second.float().mul_(rates.beta2).addcmul_(gradient, gradient, value=1 - rates.beta2)
    scale = (square / (1 - rates.beta2**rates.step)).sqrt_().add_(rates.eps)
    weight.mul_(1 - rates.lr * rates.decay)
    weight.addcdiv_(mean, scale, value=-rates.lr / (1 - rates.beta1**rates.step))
    first.copy_(stochastic_bfloat16(mean, generator))
    second.copy_(stochastic_bfloat16(square, generator))


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """Views of some rows each, of PIECE numbers or fewer (one row, where it has more)."""
    x = torch.atleast_1d(x)
    return x.split(max(1, PIECE * len(x) // max(1, x.numel())))


def _shard(p: Tensor) -> tuple[int, ...]:
    """Which part of a parameter this rank holds: its place in the mesh, but for directions along which lie copies."""
    if not isinstance(p, DTensor):
        return ()
    place = p.device_mesh.get_coordinate() or ()
    return tuple(at for at, placement in zip(place, p.placements, strict=True) if placement.is_shard())


def _generator(device: torch.device, *key: int) -> torch.Generator:
    """Random numbers that the key alone decides, as good as independent for keys that differ in any number."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))


def _local(value: Any) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
