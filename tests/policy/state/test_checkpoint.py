"""Checkpoints of one process: continued, interrupted, damaged, and on a full disk."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from files.crash_safe import Digest, sealed
from policy.state import checkpoint
from policy.state.checkpoint import CheckpointError, is_complete, read_extra, verify
from schemas.config import Lora
from tests.policy.batches import learner_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
def test_a_resumed_run_is_bit_identical(tiny, data, tmp_path, lora):
    straight = learner_of(tiny, lora=lora)
    straight.update(*data, 0.0)
    straight.save(str(tmp_path / "one"), {"position": [3, 4]})
    random = torch.rand(3)
    expected = [straight.update(*data, 0.0) for _ in range(2)]

    resumed = learner_of(tiny, lora=lora)
    assert resumed.load(str(tmp_path / "one")) == {"position": [3, 4]}
    assert torch.equal(torch.rand(3), random), "the random state continues too"
    assert [resumed.update(*data, 0.0) for _ in range(2)] == expected  # learning rate included
    for (name, a), b in zip(straight.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_an_interrupted_save_leaves_the_old_checkpoint(tiny, data, tmp_path, monkeypatch):
    learner = learner_of(tiny)
    folder = tmp_path / "step"
    learner.save(str(folder), {"step": 1})

    def crash(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_json", crash)
        with pytest.raises(CheckpointError, match=r"No space left on device; free some.*Earlier checkpoints are as"):
            learner.save(str(folder), {"step": 2})
    assert read_extra(folder) == {"step": 1}
    verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step"], "the partial one gave its space back"
    (tmp_path / "step.partial" / "state").mkdir(parents=True)
    learner.save(str(folder), {"step": 3})  # over the remains of one that was killed
    assert read_extra(folder) == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


def test_training_goes_on_while_a_checkpoint_is_written(tiny, data, tmp_path, monkeypatch):
    """What is written is the state at the call, not that of the steps since; errors come at the next call."""
    learner = learner_of(tiny)
    learner.update(*data, 0.0)
    learner.save(str(tmp_path / "waited"), {})
    gate = threading.Event()
    write = checkpoint.write_state

    def slowly(*given):
        assert gate.wait(60)
        write(*given)

    monkeypatch.setattr(checkpoint, "write_state", slowly)
    learner.begin_save(str(tmp_path / "behind"), {"step": 1})
    learner.update(*data, 0.0)
    assert not is_complete(tmp_path / "behind")
    gate.set()
    learner.finish_save()
    states = []
    for name in ("waited", "behind"):
        found = learner_of(tiny)
        found.load(str(tmp_path / name))
        states.append([p.detach().clone() for p in found.policy.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[0], learner.policy.parameters(), strict=True))

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "write_state", fail)
    learner.begin_save(str(tmp_path / "lost"), {})
    failure = learner.begin_save(str(tmp_path / "next"), {})
    assert failure is not None
    assert "lost could not be written: rank 0: PermissionError" in failure
    with pytest.raises(CheckpointError, match="next could not be written"):
        learner.save(str(tmp_path / "third"), {})


def cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def count(file):
    text = file.read_text()
    assert '"steps_taken": 0' in text
    file.write_text(text.replace('"steps_taken": 0', '"steps_taken": 1'))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm", "reason"),
    [
        ("state/__0_0.distcp", cut, r"state/__0_0\.distcp has \d+ bytes instead of \d+"),
        ("state/__0_0.distcp", flip, r"state/__0_0\.distcp has other content"),
        ("state/.metadata", flip, r"state/\.metadata has other content"),
        ("rng-00000.pt", Path.unlink, r"rng-00000\.pt is missing"),
        ("complete.json", cut, r"complete\.json is not JSON"),
        ("complete.json", count, r"complete\.json has other content"),
    ],
)
def test_damage_is_found_and_named(saved, tmp_path, name, harm, reason):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    verify(folder)
    harm(folder / name)
    with pytest.raises(CheckpointError, match=rf"copy: damaged: {reason}"):
        verify(folder)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "step"
    learner_of(tiny).save(str(folder), {})
    return folder


TOUCH = "touch harmed"


class Harmful:
    """Calls os.system when it is read by plain pickle."""

    def __reduce__(self):
        return os.system, (TOUCH,)


def named(module: str, name: str, *arguments: str) -> bytes:
    """A pickle that calls what is found under a name, as no honest writer would make it."""
    text = pickle.SHORT_BINUNICODE
    found = b"".join(text + bytes([len(each)]) + each.encode() for each in (module, name)) + pickle.STACK_GLOBAL
    given = b"".join(text + bytes([len(each)]) + each.encode() for each in arguments)
    return pickle.PROTO + b"\x04" + found + pickle.MARK + given + pickle.TUPLE + pickle.REDUCE + pickle.STOP


def built(module: str, name: str) -> bytes:
    """A pickle that sets an attribute of what is found under a name: (None, {...}) is state for setattr."""
    found = f"c{module}\n{name}\n".encode()
    return found + b"(N(dX\x04\x00\x00\x00evilI1\nstb."


DOTTED = ("torch.distributed.checkpoint.metadata", "os.system")


def crafted(saved: Path, folder: Path, name: str, content: bytes) -> Path:
    """A copy of a checkpoint with one file replaced and all digests right."""
    shutil.copytree(saved, folder)
    (folder / name).write_bytes(content)
    complete = folder / checkpoint.COMPLETE
    told = json.loads(complete.read_text())
    told.pop("blake2b")
    told["files"][name] = Digest.of(folder / name).to_json()
    complete.write_text(json.dumps(sealed(told)))
    verify(folder)
    return folder


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Harmful()), r"names posix\.system, which it cannot hold"),
        (named(*DOTTED, TOUCH), r"names torch\.distributed\.checkpoint\.metadata\.os\.system, which it cannot hold"),
        (named("torch.distributed.checkpoint.filesystem", "FileSystem"), r"names .*FileSystem, which it cannot hold"),
        (named("torch.distributed.checkpoint.metadata", "field"), r"names .*field, which it cannot hold"),
        (named("torch", "load", "harm"), r"names torch\.load, which it cannot hold"),
        (built("torch.distributed.checkpoint.metadata", "Metadata"), "changes a type"),
        (built("torch.serialization", "_get_layout"), "changes a type"),
        (pickle.dumps({"state": 1}), "is not an index"),
        (pickle.BUILD + pickle.STOP, "is not an index"),
    ],
    ids=["function", "dotted", "class", "import", "torch", "type", "attribute", "other", "broken"],
)
def test_nothing_that_an_index_says_is_run(tiny, saved, tmp_path, monkeypatch, content, reason):
    """The index of torch's format is a pickle: what it names is looked up only if it is a part of an index."""
    monkeypatch.chdir(tmp_path)
    folder = crafted(saved, tmp_path / "copy", "state/.metadata", content)
    with pytest.raises(CheckpointError, match=rf"copy cannot be read: UnpicklingError: .*{reason}"):
        learner_of(tiny).load(str(folder))
    assert not (tmp_path / "harmed").exists()
    assert not hasattr(Metadata, "evil")


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/passwd", "state/../../x", "__0_0.distcp\n"])
def test_an_index_reads_no_file_of_another_place(tiny, saved, tmp_path, name):
    index = pickle.loads((saved / "state" / ".metadata").read_bytes())
    for stored in index.storage_data.values():
        stored.relative_path = name
    folder = crafted(saved, tmp_path / "copy", "state/.metadata", pickle.dumps(index))
    with pytest.raises(CheckpointError, match="names data of another place"):
        learner_of(tiny).load(str(folder))


def test_no_value_beside_the_tensors_is_run(tiny, saved, tmp_path, monkeypatch):
    """Numbers of the optimiser, and the random state, are pickles too."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "copy"
    index = pickle.loads((saved / "state" / ".metadata").read_bytes())
    harm = io.BytesIO()
    torch.save(Harmful(), harm)
    data = (saved / "state" / "__0_0.distcp").read_bytes()
    for entry, stored in index.storage_data.items():
        if entry.fqn == "optimiser.param_groups.0.lr":
            stored.offset, stored.length = len(data), len(harm.getvalue())
    crafted(saved, folder, "state/__0_0.distcp", data + harm.getvalue())
    folder = crafted(folder, tmp_path / "value", "state/.metadata", pickle.dumps(index))
    with pytest.raises(CheckpointError, match="value cannot be read: UnpicklingError: Weights only load failed"):
        learner_of(tiny).load(str(folder))
    folder = crafted(saved, tmp_path / "random", "rng-00000.pt", harm.getvalue())
    with pytest.raises(CheckpointError, match=r"rng-00000\.pt cannot be read: UnpicklingError"):
        learner_of(tiny).load(str(folder))
    assert not (tmp_path / "harmed").exists()


FULL = """
import sys, torch
from pathlib import Path
from policy.state.checkpoint import CheckpointError, save, verify
network = torch.nn.Linear(100, 100)
optimiser = torch.optim.AdamW(network.parameters())
folder = Path(sys.argv[1])
for step in range(100):
    try:
        save(folder / f"step-{step}", network, optimiser, {}, {"step": step})
    except CheckpointError as error:
        print(error)
        break
assert step >= 2, "some fitted"
for earlier in range(step):
    verify(folder / f"step-{earlier}")
assert not list(folder.glob("*.partial"))
print("kept", step)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    """A real file system of 1 MiB, where this machine lets a user mount one."""
    mounted = f"mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c '{FULL}' {tmp_path}"
    allowed = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=1m none {tmp_path}"]
    if shutil.which("unshare") is None or subprocess.run(allowed, capture_output=True, check=False).returncode:
        pytest.skip("no unprivileged mounts here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "No space left on device; free some, or lower checkpoint.keep. Earlier checkpoints" in done.stdout
    assert "kept" in done.stdout


def test_what_is_not_complete_is_not_loaded(tiny, tmp_path):
    learner = learner_of(tiny)
    with pytest.raises(CheckpointError, match="the folder does not exist"):
        learner.load(str(tmp_path / "nowhere"))
    learner.save(str(tmp_path / "cut"), {})
    assert is_complete(tmp_path / "cut")
    (tmp_path / "cut" / "complete.json").unlink()
    with pytest.raises(CheckpointError, match="was not written to its end"):
        learner.load(str(tmp_path / "cut"))
