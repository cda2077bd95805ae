"""One page for people who open a service in a browser: what it answers, and how to call it. It loads nothing more."""

from __future__ import annotations

import html
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

PATH = "/docs"
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code,pre{font:14px/1.4 ui-monospace,monospace;background:#f3f3f3;border-radius:4px}code{padding:.1em .3em}"
    "pre{padding:.8rem;overflow-x:auto}h2{font-size:1rem;margin:1.5rem 0 .3rem}"
)


def add_docs(app: FastAPI, *, locked: bool) -> None:
    """Adds the page, written from the app's own contract. `locked` says whether other routes ask for a token."""

    @app.get(PATH, include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(_page(app.openapi(), locked))


def _page(contract: dict[str, Any], locked: bool) -> str:
    title, description = (html.escape(contract["info"][key]) for key in ("title", "description"))
    token = "<p>All but the health checks ask for the service's token, as a header.</p>" if locked else ""
    routes = "".join(
        _route(method, path, operation, locked)
        for path, operations in contract["paths"].items()
        for method, operation in operations.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body><main>'
        f"<h1>{title}</h1><p>{description}</p>{token}"
        f"<p>The contract, with schemas and worked examples, is <code>/openapi.json</code>.</p>{routes}"
        "</main></body></html>"
    )


def _route(method: str, path: str, operation: dict[str, Any], locked: bool) -> str:
    words = ["curl"]
    if locked and operation.get("security"):
        words.append('-H "Authorization: Bearer $TOKEN"')
    if method == "post":
        words.append('-H "Content-Type: application/json" --data @items.json')
    words.append(f"http://HOST:PORT{path}")
    summary = html.escape(operation.get("summary", ""))
    return (
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{summary}</p>"
        f"<pre>{html.escape(' '.join(words))}</pre>"
    )
