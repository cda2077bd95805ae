"""What the user's turn asks: the question in the configured style, or wrapped by a template of one's own."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import jinja2

from pointing.coordinates import FrameKind
from pointing.prompts import instruction
from schemas.config.file import ConfigError

_SENTINEL = "\ue000"  # a private-use character: no template writes it


def question_text(question: str, style: str, kind: FrameKind) -> str:
    """The user's text. `style` is data.prompt_style: "short", "detailed", or a Jinja file that writes {{ content }}.

    Raises ConfigError naming the file when a template cannot be used.
    """
    if style in ("short", "detailed"):
        return instruction(question, style == "detailed", kind)
    return _template(style).render(content=question)


@lru_cache(maxsize=8)
def _template(path: str) -> jinja2.Template:
    where = f"data.prompt_style={path!r}"
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
        template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
        written = template.render(content=_SENTINEL)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror}); give the path of a Jinja file") from None
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{where}: line {error.lineno}: {error.message}; correct the template") from None
    except jinja2.TemplateError as error:
        raise ConfigError(f"{where}: {error}; `content`, the question, is all that a template is given") from None
    if _SENTINEL not in written:
        raise ConfigError(f"{where}: the template leaves the question out; write {{{{ content }}}} where it belongs")
    return template
