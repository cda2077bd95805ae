"""`python -m orchestrator ...` is `pointvg ...`: the form that `ray job submit` takes."""

from orchestrator.cli.main import app

app()
