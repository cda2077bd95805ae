"""Whether the installed transformers takes what is handed to its models by name.

Their forward passes end in **kwargs, which swallow a name that they do not know: a version whose model has no
`mm_encoder_outputs` would train on text alone, and nothing would say so. So the names are looked up when a model is
loaded. What is not looked up fails by itself: without `cu_seq_lens_q` and `max_length_q` attention cannot be called
(attention.py), and a vision tower that ignores `return_dict` returns a tuple, which has no `pooler_output`.
"""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

import transformers

from schemas.config.file import SettingError

SUPPORTED = "5.19.0"  # versions of transformers whose models were tested here; as pyproject.toml says
# What forward.py hands over by name, and would be missed if it were dropped.
TO_MODEL = ("input_ids", "position_ids", "mm_encoder_outputs")
TO_TEXT = ("position_ids", "use_cache")  # through the model's **kwargs in some families: the language model names it
TO_TOWER = ("grid_thw",)
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def refuse_swallowing(model: Any, path: str) -> None:
    """Raises SettingError where a model, its language model or its vision tower would drop a keyword without an error.

    Args:
        model: a transformers model of one of the supported families, without adapters.
        path: the checkpoint, for the message.
    """
    handlers = ((model.model, TO_MODEL), (model.model.language_model, TO_TEXT), (model.model.visual, TO_TOWER))
    for module, keywords in handlers:
        taken = signature(module.forward).parameters
        for keyword in keywords:
            if keyword not in taken or taken[keyword].kind not in _NAMED:
                raise SettingError(
                    "model.path",
                    path,
                    f"{type(module).__name__}.forward of transformers {transformers.__version__} does not name "
                    f"{keyword}, and would drop it without an error",
                    f"install a supported version of transformers ({SUPPORTED})",
                )
