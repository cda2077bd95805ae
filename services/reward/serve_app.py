"""The reward service as Serve's own configuration names it, under KubeRay, by import_path.

serveConfigV2, or a file for `serve run`: http_options + args  ->  reward(args)  ->  deployment.build_app
"""

from __future__ import annotations

from typing import Any

from ray import serve

from schemas.config.service import ServiceOptions
from services.reward.deployment import build_app


def reward(args: dict[str, Any]) -> serve.Application:
    """The application of a configuration's `reward` section, given as `args`.

    `host` and `port` must be in it as in Serve's http_options, which decide: a service that others can reach needs a
    token. Raises ValueError naming the field.
    """
    options = ServiceOptions.model_validate(args)
    if options.port is None:
        raise ValueError("args.port is not set: repeat host and port of http_options, so that a token can be asked for")
    return build_app(options)
