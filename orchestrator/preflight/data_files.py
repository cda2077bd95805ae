"""Whether the data files can be read as the run will read them, and how long the longest prompt is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.batch.tasks import SPLITS, files_of, prompt_counter, read_dataset
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
    """Reads every split; of each file the first rows, or all where that is None. The model's tokenizer must work."""
    count = prompt_counter(config.model, config.data)
    longest = _Longest(config.data.max_prompt_tokens)

    def counted(task: Task) -> int:
        return longest.note(count(task))

    looked = "all rows" if rows_per_file is None else f"the first {rows_per_file} rows of each file"
    found = Findings()
    for split in SPLITS:
        files = files_of(config.data, split)
        if not files:
            continue
        try:
            dataset = read_dataset(config.data, files, counted, rows_per_file)
        except (DatasetError, OSError) as error:
            given = getattr(config.data, f"{split}_files")
            found += Findings((Problem(f"data.{split}_files", given, str(error), "correct the file, or name another"),))
            continue
        left_out = f", {len(dataset.rejected)} unusable, {dataset.overlong} too long"
        found += Findings(notes=(f"data         {split}: {len(dataset.tasks)} tasks{left_out} ({looked})",))
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
