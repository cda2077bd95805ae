"""Whether the data files can be read as the run will read them, and how long the longest prompt is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.batch.tasks import SPLITS, files_of, left_out, read_dataset, row_reader
from orchestrator.preflight.jpeg_damage import jpeg_damage
from orchestrator.preflight.problem import Findings, Problem
from pointing.dataset import DatasetError
from schemas.config import SftConfig, TrainConfig
from schemas.task import Task


@dataclass(slots=True)
class _Longest:
    """The most tokens of a prompt that is not too long."""

    limit: int
    tokens: int = 0

    def note(self, tokens: int) -> int:
        """Takes one more prompt into account; returns its tokens."""
        if tokens <= self.limit:
            self.tokens = max(self.tokens, tokens)
        return tokens


@dataclass(frozen=True, slots=True)
class DataFindings:
    """What was found, and the tokens of the longest usable prompt: 0 if there is none."""

    findings: Findings
    longest: int


def check_data(config: TrainConfig | SftConfig, rows_per_file: int | None) -> DataFindings:
    """Reads every split; of each file the first rows, or all where that is None, and then JPEG files to their end.

    The model's tokenizer must work.
    """
    count = row_reader(config)
    longest = _Longest(config.data.max_prompt_tokens)

    def counted(task: Task) -> int:
        return longest.note(count(task))

    every_row = rows_per_file is None
    looked = "all rows" if every_row else f"the first {rows_per_file} rows of each file"
    found = Findings()
    for split in SPLITS:
        files = files_of(config.data, split)
        if not files:
            continue
        try:
            dataset = read_dataset(
                config.data,
                files,
                counted,
                rows_per_file,
                jpeg_damage if every_row else None,
                transcripts=isinstance(config, SftConfig),
            )
        except (DatasetError, OSError) as error:
            given = getattr(config.data, f"{split}_files")
            found += Findings((Problem(f"data.{split}_files", given, str(error), "correct the file, or name another"),))
            continue
        others = f", {len(dataset.rejected)} unusable, {dataset.overlong} too long"
        line = f"data         {split}: {len(dataset.tasks)} tasks{others} ({looked})"
        found += Findings(notes=(line, *left_out(dataset, config.data)))
    return DataFindings(found, longest.tokens)


def check_length(config: TrainConfig, longest: int) -> Findings:
    """Whether the longest prompt leaves the first turn its tokens; a note where later turns may be cut short."""
    engine, rollout = config.rollout.engine, config.rollout
    whole = longest + rollout.max_turns * rollout.max_tokens_per_turn
    if longest + rollout.max_tokens_per_turn > engine.max_model_len:
        reason = f"the longest prompt has {longest} tokens, which with rollout.max_tokens_per_turn="
        reason += f"{rollout.max_tokens_per_turn} is more"
        remedy = f"raise it to {whole} or above, or lower data.max_prompt_tokens or data.max_pixels"
        return Findings((Problem("rollout.engine.max_model_len", engine.max_model_len, reason, remedy),))
    cut = "" if whole <= engine.max_model_len else ": the longest episodes will be cut short (ended/length_limit)"
    note = (
        f"length       prompts of up to {longest} tokens + {rollout.max_turns} turns of {rollout.max_tokens_per_turn} "
        f"= {whole}, and what is shown between them, of {engine.max_model_len}{cut}"
    )
    return Findings(notes=(note,))
