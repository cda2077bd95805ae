"""Lets a torchvision wheel built for CUDA import beside a CPU build of torch.

Such a wheel cannot load its compiled operators, and importing it then fails where it registers shape functions for two
of them. Declaring those two operators just before that module runs is enough: every other use is guarded by torchvision
itself. scripts/setup.py installs this file only when the import is seen to fail, through a .pth file, because vLLM and
Ray start Python processes of their own.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_library = None  # a torch Library un-registers its operators when it is collected


class _DeclareOperators:
    """Meta-path hook that finds nothing; it acts once, when torchvision's registrations are about to load."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision._meta_registrations":
            sys.meta_path.remove(self)
            import torch

            if not hasattr(torch.ops.torchvision, "nms"):
                global _library
                _library = torch.library.Library("torchvision", "DEF")
                for operator in ("nms", "qnms"):
                    _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, _DeclareOperators())
