"""What a command says when it cannot go on: one line and an exit code, never a traceback unless asked for.

2 refused, what the user can mend     3 a checkpoint could not be written     128 + number: stopped by a signal
1 anything else; its traceback goes to a file, so that it is not lost
"""

from __future__ import annotations

import errno
import tempfile
import traceback
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

DEBUG = "--debug"
# Errors of what a user can mend, with what opens the line and the exit code. By name: to import their modules takes
# seconds, and a command that failed has imported those it needs.
REFUSALS = {
    "schemas.config.file.ConfigError": ("refused", 2),
    "pointing.data_rows.DatasetError": ("refused", 2),
    "pointing.drawing.ImageError": ("refused", 2),
    "pointing.curation.split.SplitError": ("refused", 2),
    "policy.conversation.chat_format.ChatFormatError": ("refused", 2),
    "orchestrator.run_folder.folder.RunExistsError": ("refused", 2),
    "orchestrator.evaluation.predictions.PredictionError": ("refused", 2),
    "orchestrator.hand_proposals.ProposalError": ("refused", 2),
    "orchestrator.report.run_record.NoRunError": ("refused", 2),
    "orchestrator.report.compare.CompareError": ("refused", 2),
    "services.http.retry.RewardServiceError": ("refused", 2),
    "services.reward.scoring.ScoringError": ("refused", 2),
    "policy.state.checkpoint.CheckpointError": ("checkpoint", 3),
}
STOPPED = "orchestrator.recovery.stop.Stopped"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_PATHS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ConnectionError,
)
_OF_DISKS = (*_FULL, errno.EROFS, errno.ENAMETOOLONG, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is said, and the exit code.

    >>> refusal(FileNotFoundError(2, "No such file or directory", "a.yaml"))
    Refusal(text='refused: a.yaml: no such file or directory', code=2)
    """

    text: str
    code: int


def refusal(error: Exception) -> Refusal | None:
    """What to say of an error that is no fault of this program; None for any other."""
    for kind in type(error).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name == STOPPED:
            code: int = getattr(error, "exit_code")  # noqa: B009  (its class is not imported here)
            return Refusal(str(error), code)
        if name in REFUSALS:
            opening, code = REFUSALS[name]
            return Refusal(f"{opening}: {error}", code)
    if isinstance(error, (*_OF_PATHS, ConnectionError)) or (isinstance(error, OSError) and error.errno in _OF_DISKS):
        return Refusal(f"refused: {_of_system(error)}", 2)
    return None


def _of_system(error: OSError) -> str:
    """A file that cannot be read or written: its name, why, and what to do where the disk is full."""
    if error.errno is None or error.strerror is None:
        return str(error)
    named = error.filename2 or error.filename
    where = "" if named is None else f"{named}: "
    remedy = "; free some space, or write elsewhere" if error.errno in _FULL else ""
    return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}{remedy}"


def unexpected(error: Exception) -> str:
    """One line for an error that nobody foresaw, with where its traceback was kept."""
    said = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="pointvg-", suffix=".log", delete=False, encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
        return f"error: {said}\nIts traceback is in {log.name}; {DEBUG} prints it here."
    except OSError:  # no room for it
        traceback.print_exception(error)
        return f"error: {said}"


class RefusingGroup(TyperGroup):
    """Runs a command, and tells in a line what it could not do. With --debug, anywhere, errors keep their traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes --debug from behind the command's name too."""
        if DEBUG in args:
            args = [DEBUG, *(word for word in args if word != DEBUG)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """As the base class; an error ends the process with its code."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params.get("debug") or _is_of_command_line(error):
                raise
            told = refusal(error) or Refusal(unexpected(error), 1)
            typer.echo(told.text, err=True)
            raise typer.Exit(told.code) from None


def _is_of_command_line(error: Exception) -> bool:
    """Whether the parser of the command line raised it, and will say so itself."""
    parsers = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    return isinstance(error, typer.Exit | typer.Abort | parsers)
