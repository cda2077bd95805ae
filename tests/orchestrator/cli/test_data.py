"""pointvg data ...: what each command prints and ends with, and that a user's mistake is a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli.main import app
from pointing.scenes import write_scenes
from tests.pointing.curation.defects import TRUTH, Album, plant, row

COMMANDS = ("check", "stats", "split", "view", "convert", "transcripts")


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example(command: str) -> None:
    code, shown, _ = run(command, "--help")
    assert code == 0
    assert f"Example:\n    pointvg data {command} " in shown


def test_check_of_clean_data_ends_with_0(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "s", train=5, validation=2, test=2)
    assert run("check", scenes, "--images") == (0, "checked      9 rows: 0 errors, 0 warnings\n", "")


def test_check_tells_people_and_machines_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    planted = plant(folder)
    code, shown, _ = run("check", folder / "train.jsonl", folder / "test.jsonl")
    *lines, last = shown.splitlines()
    assert code == 1
    assert len(lines) == len(planted)
    assert {line.split()[0] for line in lines} == {"error", "warning"}
    code, out, err = run("check", folder / "train.jsonl", folder / "test.jsonl", "--json")
    assert (code, err) == (1, last + "\n")
    objects = [json.loads(line) for line in out.splitlines()]
    assert [f"{o['severity']:<8} {o['file']}:{o['line']}: {o['field']}" for o in objects] == [
        line[: len(f"{o['severity']:<8} {o['file']}:{o['line']}: {o['field']}")]
        for o, line in zip(objects, lines, strict=True)
    ]
    assert {"severity", "kind", "file", "line", "field", "value", "reason", "remedy"} == objects[0].keys()


def test_warnings_alone_end_with_1_only_if_asked(tmp_path: Path) -> None:
    album = Album(tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps(row(album, ground_truth={**TRUTH, "obj_name": ""})))
    assert run("check", tmp_path / "a.jsonl")[0] == 0
    assert run("check", tmp_path / "a.jsonl", "--strict")[0] == 1


def test_a_photograph_broken_in_its_middle_is_found_when_images_are_read_whole(tmp_path: Path) -> None:
    album = Album(tmp_path)
    broken = tmp_path / album.new("jpg", (256, 256), quality=95)
    content = bytearray(broken.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = b"\0" * 400
    broken.write_bytes(content)
    (tmp_path / "a.jsonl").write_text(json.dumps(row(album, images=[broken.name])))
    assert run("check", tmp_path / "a.jsonl")[0] == 0
    code, shown, _ = run("check", tmp_path / "a.jsonl", "--images")
    assert code == 1
    assert "Corrupt JPEG data" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "nowhere.jsonl"], 1, "nowhere.jsonl: file: no such file or folder"),
        (["stats", "nowhere.jsonl"], 2, "refused: nowhere.jsonl: no such file or folder"),
        (["stats", "{folder}/a.jsonl", "--plots", "x.pdf"], 2, "ends in .png or .html"),
        (["stats", "{folder}/a.jsonl", "--plots", "{folder}/a.jsonl.png"], 2, "add --overwrite to replace it"),
        (["split", "nowhere.jsonl", "--out", "x"], 2, "refused: nowhere.jsonl: no such file or folder"),
        (["split", "{folder}", "--out", "x"], 2, "is a folder; name one file"),
        (["split", "{folder}/a.jsonl", "--out", "{folder}/o", "--shares", "a=.5 b=.6"], 2, "add up to 1.1 on 2 sides"),
        (["split", "{folder}/a.jsonl", "--out", "{folder}/o", "--shares", "a=1"], 2, "give two sides or more"),
        (["split", "{folder}/a.jsonl", "--out", "{folder}/o", "--shares", "a=.5,b"], 2, "give NAME=SHARE"),
        (["split", "{folder}/a.jsonl", "--out", "{folder}/o", "--shares", "a=.5 ../b=.5"], 2, "no name for a file"),
        (["split", "{folder}/a.jsonl", "--out", "{folder}/o"], 2, "nothing is left for validation, test"),
        (["split", "{folder}/a.jsonl", "--out", "{folder}/o", "--by", "scene"], 2, "a.jsonl:1: scene: is missing"),
        (["split", "{folder}/a.jsonl", "--out", "{folder}"], 2, "is not empty"),
        (["view", "nowhere.jsonl", "--out", "x.html"], 2, "refused: nowhere.jsonl: no such file or folder"),
        (["view", "{folder}/a.jsonl", "--out", "x.pdf"], 2, "ends in .html"),
        (["view", "{folder}/a.jsonl", "--out", "{folder}/x.html", "--sheet", "{folder}/a.jsonl.png"], 2, "--overwrite"),
        (["convert", "no.json", "--from", "coco", "--to", "published", "--out", "x.jsonl"], 2, "no.json: no such file"),
        (["convert", "a", "--from", "published", "--to", "ti1k", "--out", "x"], 2, "has thumbs"),
        (["convert", "a", "--from", "voc", "--to", "coco", "--out", "x"], 2, "Invalid value for '--from'"),
        (
            ["convert", "{folder}/a.jsonl", "--from", "ti1k", "--to", "coco", "--out", "{folder}/o"],
            2,
            "a.jsonl:1: line",
        ),
        (["check"], 2, "Missing argument 'FILE...'"),
        (["check", "{folder}"], 1, "a folder without .jsonl, .json, .parquet files"),
        (["check", "{folder}/a.jsonl", "--images-root", "{folder}/no"], 1, "no: no such folder"),
        (["check", "{folder}/a.jsonl", "--prompt-key", "q"], 1, "q: is missing; the row has prompt"),
    ],
)
def test_a_mistake_is_told_in_a_line(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    if any("a.jsonl" in argument for argument in arguments):
        (tmp_path / "a.jsonl").write_text(json.dumps(row(Album(tmp_path))))
        (tmp_path / "a.jsonl.png").touch()
    given = [argument.format(folder=tmp_path) for argument in arguments]
    ended, out, err = run(*given)
    assert ended == code
    assert words in out + err


HOSTILE = "[red]$\\frac{<script>alert(1)</script>"


def test_stats_are_a_table_an_object_and_pictures(tmp_path: Path) -> None:
    album = Album(tmp_path)
    rows = [
        row(album, ground_truth={**TRUTH, "obj_name": HOSTILE}),
        row(album, ground_truth="none"),
        row(album, prompt=""),
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    code, shown, _ = run("stats", tmp_path / "a.jsonl", "--plots", tmp_path / "a.png")
    assert code == 0
    assert "rows         3: 1 positive, 1 negative, 1 refused" in shown
    assert HOSTILE in shown  # as it is, not as markup
    assert Image.open(tmp_path / "a.png").size[0] > 1000
    code, out, err = run("stats", tmp_path / "a.jsonl", "--json", "--plots", tmp_path / "a.html")
    found = json.loads(out)
    assert (code, found["rows"], found["negatives"], found["refused"]) == (0, 3, 1, 1)
    assert found["target_area"]["mean"] == pytest.approx(20 * 20 / (64 * 48))
    assert err == f"plots        {tmp_path / 'a.html'}\n"
    page = (tmp_path / "a.html").read_text()
    assert "<svg" in page
    assert "<script" not in page


def test_view_writes_a_page_and_a_sheet(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "s", train=5, validation=2, test=0)
    code, shown, _ = run("view", scenes, "--out", tmp_path / "v.html", "--sheet", tmp_path / "v.png", "--limit", "4")
    assert code == 0
    assert shown.splitlines() == [
        f"page         {tmp_path / 'v.html'}: 4 of 7 rows",
        f"sheet        {tmp_path / 'v.png'}",
    ]
    assert Image.open(tmp_path / "v.png").size[0] > 4 * 448
    assert run("view", scenes, "--out", tmp_path / "v.html")[0] == 2
    assert run("view", scenes, "--out", tmp_path / "v.html", "--overwrite")[0] == 0
