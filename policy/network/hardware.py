"""What a GPU does in a second, as its maker's data sheet has it: what utilisation and the estimate of a step refer to.

Operations are dense ones in bfloat16 with float32 sums, half of what the sheets print "with sparsity". Bandwidths are
of the GPU's own memory, and of its link to others of its node in one direction: NVLink of the SXM boards and of NVL
pairs, else PCIe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.config.resources import GpuKind

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, slots=True)
class GpuRates:
    """Operations a second at the peak, and bytes a second of memory and of the link.

    >>> GPUS["H100"].operations / TERA
    989.4
    """

    operations: float
    memory: float
    link: float


# NVIDIA's data sheets: A100 (2022), L4 and L40S (2023), H100 (2023), H200 (2024), HGX B200 (2025). The names are Ray's,
# which tells neither the two sizes of the A100 nor the boards of the H100 apart.
GPUS: Mapping[GpuKind, GpuRates] = {
    "A100": GpuRates(312 * TERA, 2039 * GIGA, 300 * GIGA),
    "A100-40G": GpuRates(312 * TERA, 1555 * GIGA, 300 * GIGA),
    "B200": GpuRates(2250 * TERA, 8000 * GIGA, 900 * GIGA),
    "H100": GpuRates(989.4 * TERA, 3350 * GIGA, 450 * GIGA),
    "H100-NVL": GpuRates(835.5 * TERA, 3938 * GIGA, 300 * GIGA),
    "H100-PCIe": GpuRates(756.5 * TERA, 2039 * GIGA, 64 * GIGA),
    "H200": GpuRates(989.4 * TERA, 4800 * GIGA, 450 * GIGA),
    "L4": GpuRates(121 * TERA, 300 * GIGA, 32 * GIGA),
    "L40S": GpuRates(362 * TERA, 864 * GIGA, 32 * GIGA),
}
