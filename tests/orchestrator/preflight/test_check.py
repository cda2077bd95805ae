"""Every fault that would stop a run is found before it starts, by field, value and remedy, and all of them at once."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.preflight import check as preflight
from orchestrator.preflight import host_resources as room
from orchestrator.preflight.check import Report, check
from orchestrator.preflight.role_memory import memory_plan
from orchestrator.roles.placement import Node
from orchestrator.train_run import run_training
from policy.network.footprint import GIB, Sizes, Tower
from policy.tiny.model import build_tiny
from schemas.config import SftConfig, TrainConfig
from schemas.config.file import ConfigError


@pytest.fixture
def model(tiny_model: str, tmp_path: Path) -> Path:
    """A copy to harm."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def found(model: Path, scenes: Path, tmp_path: Path) -> Any:
    def checked(every_row: bool = False, **other: Any) -> Report:
        values: dict[str, Any] = {
            "run": {"folder": str(tmp_path / "runs")},
            "model": {"path": str(model)},
            "data": data(scenes),
            "rollout": {"max_tokens_per_turn": 40, "engine": {"max_model_len": 256}},
            "trainer": {"max_steps": 1},
        }
        return check(TrainConfig.model_validate(values | other), every_row=every_row)

    return checked


def data(scenes: Path, **other: Any) -> dict[str, Any]:
    return {
        "train_files": str(scenes / "train.jsonl"),
        "prompt_style": "short",
        "min_pixels": 12544,
        "max_pixels": 12544,
    } | other


def only(report: Report) -> str:
    assert len(report.problems) == 1, report.problems
    return str(report.problems[0])


def test_what_is_well_is_passed_with_a_line_on_each_part(found: Any) -> None:
    report = found()
    assert report.problems == ()
    assert report.unchecked == ()
    assert [note.split()[0] for note in report.notes] == ["model", "data", "length", "machine"]
    assert [line.split()[0] for line in report.plan.splitlines()] == [
        "role",
        "rollout",
        "learner",
        "reference",
        "reward",
    ]
    assert "train: 24 tasks, 0 unusable, 0 too long (the first 64 rows of each file)" in report.notes[1]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda m: (m / "config.json").unlink(), "no config.json there; give the folder"),
        (lambda m: (m / "config.json").write_text('{"model_type": "bert"}'), "model_type='bert' is not supported"),
        (lambda m: (m / "model.safetensors").unlink(), r"no \*\.safetensors files there; convert"),
        (lambda m: cut(m / "model.safetensors"), r"model\.safetensors is cut off \(\d+ of \d+ bytes\); download"),
        (lambda m: (m / "model.safetensors").write_bytes(b"1"), r"model\.safetensors is cut off \(1 bytes\)"),
        (lambda m: (m / "tokenizer.json").unlink(), "tokenizer"),
        (lambda m: (m / "chat_template.jinja").unlink(), "no chat template"),
        (lambda m: (m / "processor_config.json").unlink(), "no settings of an image processor there"),
    ],
)
def test_a_model_that_is_not_whole(found: Any, model: Path, harm: Any, reason: str) -> None:
    harm(model)
    problems = [str(problem) for problem in found().problems if problem.field == "model.path"]
    assert problems
    assert all(problem.startswith(f"model.path='{model}': ") for problem in problems)
    assert any(re.search(reason, problem) for problem in problems), problems


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_an_index_that_names_what_is_not_there(found: Any, model: Path) -> None:
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert "model-00001-of-00002.safetensors is missing; finish the download" in only(found())
    index.write_text(json.dumps({"weight_map": {"unheard.of": "model.safetensors"}}))
    assert "model.safetensors lacks unheard.of, which model.safetensors.index.json places in it; dow" in only(found())


def test_data_that_cannot_be_used(found: Any, scenes: Path, tmp_path: Path) -> None:
    absent = found(data=data(scenes, train_files=str(tmp_path / "none.jsonl")))
    assert only(absent).startswith(f"data.train_files='{tmp_path / 'none.jsonl'}'")
    assert "no such file or folder" in only(absent)
    lines = (scenes / "train.jsonl").read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([*lines[:2], "{", *lines[2:4]]))
    report = found(data=data(scenes, train_files=str(tmp_path / "bad.jsonl"), image_dir=str(scenes)))
    assert "bad.jsonl:3: row: not JSON" in only(report)


def test_only_with_all_is_a_late_row_read(found: Any, scenes: Path, tmp_path: Path) -> None:
    lines = (scenes / "train.jsonl").read_text().splitlines()
    (tmp_path / "late.jsonl").write_text("\n".join([*(lines * 3)[:70], "{"]))
    late = data(scenes, train_files=str(tmp_path / "late.jsonl"), image_dir=str(scenes))
    assert found(data=late).problems == ()
    assert "late.jsonl:71: row: not JSON" in only(found(every_row=True, data=late))


def test_prompts_that_leave_no_room(found: Any) -> None:
    report = found(rollout={"max_tokens_per_turn": 40, "engine": {"max_model_len": 64}})
    assert "rollout.engine.max_model_len=64: the longest prompt has" in only(report)
    tight = found(rollout={"max_tokens_per_turn": 100, "engine": {"max_model_len": 192}})
    assert tight.problems == ()
    assert any("will be cut short" in note for note in tight.notes)


def test_a_reward_function_that_cannot_be_loaded_and_a_token_that_is_not_set(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_this_name\n")
    report = found(reward={"function": f"{tmp_path / 'mine.py'}:score"})
    assert "reward.function=" in only(report)
    assert "nothing_of_this_name" in only(report)
    monkeypatch.delenv("UNSET_TOKEN", raising=False)
    token = found(reward={"host": "0.0.0.0", "port": 8100, "token_env": "UNSET_TOKEN"})
    assert "reward.token_env='UNSET_TOKEN': that environment variable is not set" in only(token)


def test_a_mirror_that_no_package_knows(found: Any, tmp_path: Path) -> None:
    report = found(checkpoint={"mirror": "nope://bucket"})
    assert only(report).startswith("checkpoint.mirror='nope://bucket': Protocol not known: nope; install what the URL")
    assert found(checkpoint={"mirror": (tmp_path / "there").as_uri()}).problems == ()


def test_gpus_that_are_not_there(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.torch.cuda, "device_count", lambda: 1)
    report = found(resources={"rollout": {"gpus": 1}, "learner": {"gpus": 1}, "gpu_memory_gib": 80})
    assert "the machine cannot hold the roles: " in only(report)
    assert "room for 0 of 1 processes of 1 CPU, 1 GPU; free then: this machine (" in only(report)


def test_a_gpu_that_is_too_small(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.torch.cuda, "device_count", lambda: 2)
    gpus = {"rollout": {"gpus": 1}, "learner": {"gpus": 1}}
    small = found(resources=gpus | {"gpu_memory_gib": 0.01})
    assert only(small).startswith("resources.gpu_memory_gib=0.01: learner: weights 3.2 + ")
    assert "add learner ranks" in only(small)
    assert "GPU memory   learner    weights" in small.plan
    unknown = found(resources=gpus)
    assert unknown.problems == ()
    assert unknown.unchecked == ("GPU memory: its size is not known; set resources.gpu_memory_gib to that of one GPU",)


def test_attention_that_is_not_installed(found: Any, model: Path) -> None:
    values = {"path": str(model), "attention": "flash_attention_2"}
    assert only(found(model=values)).startswith(
        "model.attention='flash_attention_2': does not compute in dtype='float32'"
    )
    missing = only(found(model=values | {"dtype": "bfloat16"}))
    assert missing.startswith("model.attention='flash_attention_2': the package flash-attn is not installed here")
    assert missing.endswith("or set model.attention=varlen")


def test_a_cluster_is_looked_at_node_by_node(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = (Node("a", 4, label="learner"), Node("b", 4))
    monkeypatch.setattr(preflight, "cluster_nodes", lambda resources: nodes)
    assert found().problems == ()
    assert found().unchecked[0].startswith("files: each node is asked whether it sees run folder, model and images")
    asked = {"learner": {"count": 2, "cpus": 3, "place": {"label": "learner"}}}
    problem = only(found(resources=asked))
    assert problem.startswith("resources.learner.count=2: the cluster cannot hold the roles: learner: room for ")
    assert " of 2 processes of 3 CPU on nodes labelled pointvg.role=learner; free then: a (" in problem
    assert problem.endswith("add nodes; with nodes that come on demand, set resources.autoscaled=true")
    later = found(resources=asked | {"autoscaled": True})
    assert later.problems == ()
    assert later.unchecked[1].startswith("machines: resources.autoscaled=true, and more nodes must come before")


def test_a_disk_and_a_memory_that_are_too_small(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert "checkpoint.keep=2: 4 checkpoints of" in only(found())
    monkeypatch.undo()
    monkeypatch.setattr(room.os, "sysconf", lambda name: 1024)  # 1 MiB
    assert "weights and states alone need" in only(found())


def test_the_machine_and_the_gpus_are_judged_by_one_estimate() -> None:
    """What stays from step to step on all processes, of a model of 2^28 weights in float32: 1 GiB."""
    weights = 2**28
    sizes = Sizes(weights, weights, 4 * weights, 1, 1, Tower(1, 1, 1, 1, 1, 1), Tower(1, 1, 1, 1, 1, 1), True, 1, 1, 1)
    values: dict[str, Any] = {"model": {"path": "m"}, "data": {"train_files": "a"}, "trainer": {"max_steps": 1}}

    def lasting(**other: Any) -> dict[str, float]:
        config = (SftConfig if "samples" in other.get("trainer", {}) else TrainConfig).model_validate(values | other)
        return {plan.role: plan.lasting / GIB for plan in memory_plan(config, sizes)}

    # Weights, gradients and two moments; weights and 256 MiB of cache; weights.
    assert lasting() == {"learner": 4, "rollout": 1.25, "reference": 1}
    several = {"learner": {"count": 4}, "rollout": {"count": 2}, "reference": {"count": 3}}
    assert lasting(resources=several) == {"learner": 4, "rollout": 2.5, "reference": 3}  # ranks share one copy
    copies = {"sharding": {"ranks": 2}, "optimiser": {"state_dtype": "bfloat16"}}
    assert lasting(resources=several, learner=copies)["learner"] == 2 * 3
    assert lasting(trainer={"samples": 32}) == {"learner": 4}
    exact = lasting(algorithm={"kl": {"estimator": "full"}})
    assert exact == {"learner": 5, "rollout": 1.25}  # the learner holds the reference


def test_all_faults_are_said_at_once_and_nothing_is_started(
    model: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "processor_config.json").unlink()
    values = {
        "run": {"folder": str(tmp_path / "runs")},
        "model": {"path": str(model)},
        "data": data(scenes, validation_files="gone.jsonl"),
        "rollout": {"engine": {"max_model_len": 64}},
        "reward": {"function": "gone.py:score"},
        "resources": {"learner": {"gpus": 8}},
        "trainer": {"max_steps": 1},
    }
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(values))
    done = CliRunner().invoke(app, ["check", "--config", str(file)])
    assert done.exit_code == 2
    fields = ("model.path", "data.validation_files", "rollout.engine.max_model_len", "reward.function")
    for field in fields:
        assert f"problem      {file}:1: {field}=" in done.output
    assert "4 problem(s); nothing was started" in done.output
    assert "not checked  machines: RAY_ADDRESS names no cluster, and this machine, where the run would" in done.output
    with pytest.raises(ConfigError, match=r"model\.path=(.*\n)*resources\.learner\.count=1: the machine cannot hold"):
        run_training(TrainConfig.model_validate(values))
    assert not (tmp_path / "runs").exists()


def test_a_problem_says_where_its_setting_was_made(model: Path, scenes: Path, tmp_path: Path) -> None:
    lines = ["trainer:", "  max_steps: 1", "model:", "  path: nowhere", "data:", "  train_files: gone.jsonl"]
    file = tmp_path / "c.yaml"
    file.write_text("\n".join([*lines, "run:", f"  folder: {tmp_path}"]))
    done = CliRunner().invoke(app, ["check", "--config", str(file)])
    assert f"problem      {file}:4: model.path='nowhere': no config.json there; give the folder" in done.output
    done = CliRunner().invoke(app, ["check", "--config", str(file), f"model.path={model}", "rollout.max_turns=2"])
    assert f"problem      {file}:6: data.train_files='gone.jsonl': gone.jsonl: no such file or folder" in done.output
    done = CliRunner().invoke(app, ["check", "--config", str(file), f"model.path={model}", "data.train_files=x.jsonl"])
    assert "problem      command line: data.train_files='x.jsonl'" in done.output


def test_a_name_on_the_hub_is_told_from_a_folder(found: Any) -> None:
    problem = only(found(model={"path": "Qwen/Qwen2.5-VL-3B-Instruct"}))
    assert "`hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir Qwen2.5-VL-3B-Instruct`" in problem
    assert "hf download" not in only(found(model={"path": "/gone/Qwen2.5-VL-3B-Instruct"}))


def test_adapters_that_fit_no_layer(found: Any, model: Path) -> None:
    problem = only(found(model={"path": str(model), "lora": {"targets": ["nothing_of_this_name"]}}))
    assert problem.startswith("model.lora.targets=('nothing_of_this_name',): the model cannot be built (")


def test_a_chat_template_that_is_not_there_is_blamed_by_its_own_setting(found: Any, model: Path) -> None:
    problem = only(found(model={"path": str(model), "chat_template": "gone.jinja"}))
    assert problem.startswith("model.chat_template='gone.jinja': cannot be read (No such file or directory); give the")


def test_a_critic_that_cannot_read_the_policys_ids(found: Any, tmp_path: Path) -> None:
    other = str(build_tiny(tmp_path / "other", "qwen3_vl"))
    assert only(found(algorithm={"advantage": "gae"}, critic={"path": other})).startswith("critic.path=")


def test_a_run_folder_that_is_a_file(found: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert "taken is a file; choose another folder" in only(found(run={"folder": str(tmp_path / "taken")}))


def test_the_command_says_when_all_is_well(model: Path, scenes: Path, tmp_path: Path) -> None:
    values = {
        "run": {"folder": str(tmp_path)},
        "model": {"path": str(model)},
        "data": data(scenes),
        "trainer": {"samples": 32},
    }
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(values))
    done = CliRunner().invoke(app, ["check", "--all", "--config", str(file), "trainer.batch_rows=8"])
    assert done.exit_code == 0, done.output
    assert "(all rows)" in done.output
    assert done.output.endswith("ready\n")
