"""The page of a run: whole, well-formed, safe and self-contained, and it says what the folder holds."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from files.owned import ExistsError
from orchestrator.report.page import MADE_BY, report, report_at_end, run_page, write_report
from orchestrator.report.run_record import NoRunError, read_run
from orchestrator.run_folder.folder import RunFolder
from schemas.config import SftConfig, TrainConfig
from tests.orchestrator.report.checked_page import CheckedPage
from tests.orchestrator.report.made_run import STAGES, made_run

Made = tuple[RunFolder, TrainConfig]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(made: Made) -> str:
    return report(read_run(*made))


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    seen = CheckedPage(page)
    assert seen.outside == []
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?\s*(https?:)?//""", page)
    assert len(set(seen.ids)) == len(seen.ids)
    assert set(seen.references) <= set(seen.ids)
    assert seen.unnamed == []
    assert page.count("<h1") == 1
    assert seen.scripts == 1


def test_it_says_what_was_run_and_what_came_of_it(page: str) -> None:
    text = CheckedPage(page).text
    for words in (
        "stage 2: grpo, loss ppo_clip",
        "4 tasks x 4 samples = 16 trajectories a step",
        "steps 4 of 4",
        "trajectories 64",
        "tokens trained on 200",
        "time in steps 24.0 s",
        "after 0 and after 4 steps",
        "rollout.tasks_per_step 4 32",
        "Nothing was lost.",
        "rollout 3.00 s 50 %",
    ):
        assert words in text, words
    for title in ("reward", "object mIoU", "seconds of a step", "sampled replies", "greedy replies"):
        assert f">{title}</figcaption>" in page
    replies = 6 * 3 + 4 * 2 * 3  # tasks in each validation; steps with 2 groups of 3 samples
    assert text.count("what it said, and its reward term by term") == replies


def test_the_change_is_that_of_the_tasks(made: Made) -> None:
    """Targets were 30 pixels off and are not any more; hands never were."""
    changes = {(row.name, row.mode): row for row in run_page(read_run(*made)).changes}
    iou = changes["object mIoU", "greedy"]
    assert float(iou.values[1]) > 0.98
    assert iou.changes[0].verdict == "better"
    assert changes["hand mIoU", "greedy"].changes[0].mean == "+0.000"
    assert changes["hand mIoU", "greedy"].changes[0].verdict == "no clear change"


def test_the_stages_are_in_the_order_of_their_cost(made: Made) -> None:
    rows = run_page(read_run(*made)).stage_rows
    assert [(row.name, row.median) for row in rows] == [(name, f"{seconds:.2f} s") for name, seconds in STAGES.items()]
    assert [row.share for row in rows] == ["50 %", "33 %", "12 %", "4 %"]


def test_groups_of_training_are_shown_as_they_were_played(made: Made) -> None:
    groups = run_page(read_run(*made)).groups
    assert [group.step for group in groups] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert len({tuple(group.task for group in groups[at : at + 2]) for at in range(0, 8, 2)}) > 1
    for group in groups:
        assert [reply.title for reply in group.replies] == ["sample 1", "sample 2", "sample 3"]
        assert group.picture is not None
        rewards = [reply.reward for reply in group.replies]
        assert group.mean == pytest.approx(sum(rewards) / 3)
        if not group.truth.negative:
            assert group.replies[0].outcome == "correct"
            assert group.replies[2].outcome == "wrong object"
            assert group.deviation > 0.5


def test_what_a_model_writes_is_text_and_never_markup(tmp_path: Path) -> None:
    folder, config = made_run(tmp_path, offs=(0,))
    file = folder.samples(0)
    table = pq.read_table(file)
    evil = '</script></svg><script>alert(1)</script><img src=x onerror="alert(2)"> &amp; "\''
    for column, value in (("turn_texts", [evil]), ("reply", f"<|caption_start|>{evil}<|caption_end|>")):
        place = table.schema.get_field_index(column)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array([value] * table.num_rows, field.type))
    pq.write_table(table, file)
    lost = {"role": "<b>x</b>", "ranks": [0, 1], "what": evil, "fault": "died", "seconds": 2.0}
    (folder.root / "recoveries.jsonl").write_text(json.dumps(lost) + "\n")
    text = report(read_run(folder, config))
    seen = CheckedPage(text)
    assert seen.scripts == 1
    assert "<b>x" not in text
    assert "<img" not in text
    assert "alert(2)" in seen.text


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    folder, config = made_run(tmp_path, offs=(), steps=0)
    folder.metrics.unlink()
    assert "metrics.jsonl holds no numbers yet" in CheckedPage(report(read_run(folder, config))).text


def test_a_run_that_was_killed_has_a_page(tmp_path: Path) -> None:
    folder, config = made_run(tmp_path, offs=(30, 0))
    with folder.metrics.open("a") as file:
        file.write('{"kind": "train", "ste')
    whole = folder.samples(4).read_bytes()
    folder.samples(4).write_bytes(whole[: len(whole) // 2])
    seen = CheckedPage(report(read_run(folder, config)))
    assert "samples/step-000004.parquet cannot be read and is left out" in seen.text
    assert "One validation so far, after 0 steps." in seen.text


def test_images_keep_to_their_bound_and_what_is_left_out_is_said(made: Made) -> None:
    run = read_run(*made)
    whole = run_page(run)
    assert len(whole.pictures) >= 6 + 2  # held out, and of training
    assert whole.notes == []
    room = len(whole.pictures[0].uri) + len(whole.pictures[1].uri)
    some = run_page(run, most_bytes=room)
    assert 0 < sum(len(picture.uri) for picture in some.pictures) <= room
    assert some.notes == [
        f"{len(whole.pictures) - len(some.pictures)} images are left out, lest the page grow too large"
    ]
    CheckedPage(report(run, most_bytes=0))


def test_without_the_data_there_are_no_images_and_the_page_says_why(tmp_path: Path) -> None:
    folder, config = made_run(tmp_path, offs=(0,))
    (tmp_path / "scenes" / "validation.jsonl").rename(tmp_path / "elsewhere.jsonl")
    page = run_page(read_run(folder, config))
    assert all(case.picture is None for case in page.cases)
    assert any("validation.jsonl: no such file or folder" in note for note in page.notes)
    assert len(page.cases) == 6


def test_only_its_own_page_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, config = made_run(tmp_path, offs=(0,))
    file = write_report(folder, config)
    assert file == folder.root / "report.html"
    assert MADE_BY in file.read_text()
    write_report(folder, config)
    file.write_text("mine")
    with pytest.raises(ExistsError, match="was not written by pointvg report"):
        write_report(folder, config)
    with pytest.raises(ExistsError, match="add --overwrite"):
        write_report(folder, config, file)
    report_at_end(folder, config)
    assert "warning      no report was written (ExistsError: " in capsys.readouterr().out
    assert file.read_text() == "mine"
    write_report(folder, config, overwrite=True)
    assert MADE_BY in file.read_text()
    with pytest.raises(NoRunError, match="no such folder"):
        write_report(RunFolder(tmp_path / "nowhere"), config)


def test_the_same_folder_gives_the_same_page(made: Made, page: str) -> None:
    assert report(read_run(*made)) == page


def test_a_run_of_stage_1_has_its_losses(tmp_path: Path) -> None:
    values = {"model": {"path": "m"}, "data": {"train_files": "a.jsonl"}, "trainer": {"samples": 64}}
    lines = [{"kind": "train", "step": step, "time": 1.0, "loss": 2.0 - step} for step in range(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = CheckedPage(report(read_run(RunFolder(tmp_path), SftConfig.model_validate(values))))
    assert "stage 1: supervised fine-tuning" in seen.text
    assert "steps 2 of 2" in seen.text
    assert "loss, step 1: 1" in seen.text
