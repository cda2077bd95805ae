"""Parameters over ranks (FSDP2), and the weights that leave the learner.

every vision block, every decoder layer, then the rest, is sharded by rows over the ranks
rank r: local_shards() --> {HF name: its rows} --.
                                                 +--> join_shards([r0, r1, ...]) --> {HF name: whole weight}
of a policy with adapters these are the adapters alone; see adapters.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from policy.network.forward import Backbone, PolicyModule
from policy.network.load import base_model, vision_tower
from policy.network.load_sharded import fill, hf_name
from policy.state.adapters import LORA_A, LORA_B, LORA_SCALE, Array, merge_adapters
from schemas.config import DType, Model, Sharding


def blocks(network: Backbone) -> list[nn.Module]:
    """The units of sharding beside the rest: vision blocks and decoder layers."""
    return [*vision_tower(network.model).blocks, *base_model(network.model).model.language_model.layers]


def shard(
    network: Backbone,
    mesh: DeviceMesh,
    dtype: DType,
    *,
    cpu_offload: bool = False,
    exact: Sequence[nn.Module] = (),
) -> None:
    """Shards the network in place over the last dimension of a mesh, with copies along the one before, if there is one.
    Parameters on the meta device stay there.

    With "bfloat16", parameters are gathered and used in bfloat16 while the shards, gradients' sums and optimiser state
    stay float32. Modules in `exact` compute in float32 whatever `dtype` is.
    """
    if dtype == "bfloat16":
        # Inputs are not cast: the vision tower's rotary angles stay float32, as in the sampler.
        precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    else:
        precision = MixedPrecisionPolicy()
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if cpu_offload else OffloadPolicy()
    for module in exact:
        fully_shard(module, mesh=mesh, offload_policy=offload)
    for module in [*blocks(network), network]:
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=offload)


def place(
    network: Backbone, model: Model, sharding: Sharding, device: str, seed: int, exact: Sequence[nn.Module] = ()
) -> None:
    """Makes a network that was loaded ready to train: on the device, or sharded over the ranks of the group.

    A sharded one gets its weights from `model.path` only now; `seed` is that of its adapters. Every rank must call it.
    `exact` is that of `shard`.
    """
    if dist.is_initialized():
        mesh = _mesh(sharding.ranks or world_size(), device)
        shard(network, mesh, model.dtype, cpu_offload=sharding.cpu_offload, exact=exact)
        fill(network, model.path, seed, "cpu" if sharding.cpu_offload else device)
    else:
        network.to(device)


def _mesh(ranks: int, device: str) -> DeviceMesh:
    """Consecutive ranks share a copy, so that it stays on a node where ranks are dealt node by node."""
    copies = world_size() // ranks
    if copies == 1:
        return init_device_mesh(device, (ranks,), mesh_dim_names=("shards",))
    return init_device_mesh(device, (copies, ranks), mesh_dim_names=("copies", "shards"))


def compile_blocks(network: Backbone) -> None:
    """Compiles every block by itself: they are alike, so one compilation serves all. Before sharding."""
    for block in blocks(network):
        block.compile()


def refuse_bfloat16_alone(dtype: DType) -> None:
    """Raises ValueError where bfloat16 would be trained without the float32 shards of FSDP's mixed precision."""
    if dtype == "bfloat16" and not dist.is_initialized():
        raise ValueError(
            "model.dtype=bfloat16 trains with FSDP's mixed precision; initialise a process group first (one rank "
            "is enough), or use float32"
        )


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def world_size() -> int:
    """Ranks of the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def most_over_ranks(counts: Sequence[int], device: str) -> list[int]:
    """The elementwise largest of every rank's counts. Ranks must issue equal collectives, so they agree first."""
    if not dist.is_initialized():
        return list(counts)
    agreed = torch.tensor(counts, device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return agreed.tolist()


def sum_over_ranks(names: Sequence[str], sums: Tensor) -> dict[str, float]:
    """The sums of all ranks added up, by name. All ranks must call it."""
    if dist.is_initialized():
        dist.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def local_shards(policy: PolicyModule) -> dict[str, Array]:
    """This rank's rows of every weight by its Hugging Face name, float32, copied to the CPU.

    A tied lm_head is there too: an engine that keeps its own copy would otherwise go on with the old one. Where
    adapters are trained, they alone are there: the frozen weights are those of the checkpoint, everywhere and always.
    """
    weights, scales = named_weights(policy), _scales(policy)
    if isinstance(policy.model, PeftModel):
        weights = {name: value for name, value in weights.items() if name.endswith((LORA_A, LORA_B))}
    return {name: _local(value) for name, value in weights.items()} | scales


def join_shards(shards: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Whole weights by Hugging Face name, or whole adapters, from every rank's local shards, in order of rank.

    Raises ValueError if the ranks do not hold the same names.
    """
    for number, other in enumerate(shards):
        if other.keys() != shards[0].keys():
            odd = sorted(other.keys() ^ shards[0].keys())[:3]
            raise ValueError(f"the shards of rank {number} and rank 0 differ in {odd}; all must be of one update")
    return {
        name: value if name.endswith(LORA_SCALE) or len(shards) == 1 else np.concatenate([s[name] for s in shards])
        for name, value in shards[0].items()
    }


def full_weights(policy: PolicyModule) -> dict[str, Array]:
    """Whole merged weights on rank 0, {} on the others. Every rank must call it: weights are gathered one by one."""
    whole: dict[str, Array] = {}
    for name, value in named_weights(policy).items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if rank() == 0:
            whole[name] = _to_numpy(full)
    return merge_adapters(whole | _scales(policy)) if rank() == 0 else {}


def named_weights(policy: PolicyModule) -> dict[str, Tensor]:
    """Every weight, sharded or not, by Hugging Face name; an adapter by the name of its weight and a suffix."""
    return {_travel_name(name): value for name, value in policy.model.state_dict().items()}


def _travel_name(name: str) -> str:
    """
    >>> _travel_name("base_model.model.model.layers.0.q_proj.lora_A.default.weight")
    'model.layers.0.q_proj.weight:lora_A'
    """
    name = hf_name(name)
    for suffix in (LORA_A, LORA_B):
        name = name.replace(f".{suffix[1:]}.default.weight", f".weight{suffix}")
    return name


def _scales(policy: PolicyModule) -> dict[str, Array]:
    if not isinstance(policy.model, PeftModel):
        return {}
    return {
        _travel_name(f"{name}.weight") + LORA_SCALE: np.asarray(module.scaling["default"], dtype=np.float32)
        for name, module in policy.model.named_modules()
        if hasattr(module, "lora_A")
    }


def _local(value: Tensor) -> Array:
    return _to_numpy(value.to_local() if isinstance(value, DTensor) else value)


def _to_numpy(value: Tensor) -> Array:
    return value.detach().to("cpu", torch.float32, copy=True).numpy()
