"""Adaptation in several processes: the curve of one, whatever the number of them, and whichever of them dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner
from conftest import VOCABULARY, Pico, saved
from pydantic import ValidationError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import AdaptConfig, AdaptResult, BonsaiError, Registry, RunConfig, adapt, load_model, resume, run
from bonsai_core.adaptation.data import Windows, plan_schedule
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.job import open_adaptation
from bonsai_core.adaptation.passes import Passes
from bonsai_core.adaptation.ranks import Ranks, joined
from bonsai_core.adaptation.teacher import StoredTeacher, share_of
from bonsai_core.cli.main import cli
from bonsai_core.model.forward import passes as forward
from bonsai_core.model.forward.chunks import Chunks

ROUNDING = 1e-6
"""Relative difference of losses: sums of float32 gradients in another order, over a few steps."""
SETTINGS: dict[str, dict[str, Any]] = {
    "one pass each": {"method": "full", "micro_batch_size": 2, "teacher": "none", "steps": 40},
    "dropout": {"method": "lora", "lora_dropout": 0.2, "micro_batch_size": 1},
    "teacher in memory": {"method": "full", "micro_batch_size": 1, "teacher_top_k": 0, "hidden_weight": 0.01},
}
SETTINGS |= {
    "sharded": {**SETTINGS["one pass each"], "steps": 14, "max_grad_norm": 1e3, "shard": True},
    "sharded, tied": {
        "model": "tied",
        "method": "full",
        "micro_batch_size": 1,
        "weight_decay": 0.1,
        "max_grad_norm": 0.05,
        "gradient_checkpointing": True,
        "save_minutes": 1,
        "shard": True,
    },
    "sharded, teacher in memory": {**SETTINGS["teacher in memory"], "save_minutes": 1, "shard": True},
}
SCRIPT = """
import json, os, sys
from pathlib import Path

OUT, RANK = Path(sys.argv[1]), int(os.environ["RANK"])
written = []

def audit(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event == "os.rename") and str(args[0]).startswith(str(OUT)):
        written.append(Path(str(args[0])).name)

sys.addaudithook(audit)
import torch
torch.set_num_threads(1)
from bonsai_core import AdaptConfig, BonsaiError, adapt, load_model, resume
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.objective import Objective
from bonsai_core.adaptation.rank_checks import check_shared
from bonsai_core.adaptation.ranks import joined
from bonsai_core.adaptation.sharding import set_part, shard, whole

def parts(model, mixed):
    config = AdaptConfig(model="x", method="full", device="cpu", precision="bfloat16" if mixed else "float32")
    objective = Objective(model.requires_grad_(True), None, None, config)
    layers = model.model.layers
    shapes = {frozenset(weight.shape) for weight in layers.parameters() if weight.ndim > 1}
    before = {name: weight.detach().clone() for name, weight in objective.named_parameters()}
    batch = {"input_ids": torch.arange(64).view(2, 32), "window": torch.zeros(2)}
    objective(**batch)["loss"].backward()
    alone = {name: weight.grad for name, weight in objective.named_parameters()}
    objective.zero_grad()
    with joined() as ranks:
        shard(objective, list(layers), ranks, mixed=mixed)
    weights = dict(objective.named_parameters())
    same = all(torch.equal(whole(weight), before[name]) for name, weight in weights.items())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        loss = objective(**batch)["loss"]
    matrices = [tensor for tensor in kept if tensor.ndim == 2 and frozenset(tensor.shape) in shapes]
    kept = [tensor.untyped_storage().nbytes() for tensor in matrices]
    loss.backward()
    error = max(float((whole(w.grad) - alone[name]).norm() / alone[name].norm()) for name, w in weights.items())
    optimizer = torch.optim.AdamW(objective.parameters(), fused=True)
    optimizer.step()
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    with torch.no_grad():
        for name, weight in weights.items():
            set_part(weight, before[name])
    again = all(torch.equal(whole(weight), before[name]) for name, weight in weights.items())
    gradients = [weight.grad for weight in weights.values()]
    here = [sum(tensor.to_local().numel() for tensor in of) for of in (weights.values(), gradients, moments)]
    return {"here": here, "same": same and again, "kept": kept, "error": error}

found = {}
for name, settings in json.loads(sys.argv[2]).items():
    found[name] = adapt(AdaptConfig.model_validate(settings)).report["losses"]
resume(OUT / "killed")
resume(OUT / "killed sharded")
pruned = Path(settings["model"]) / "model"
found["parts"] = [parts(load_model(str(pruned), device="cpu"), mixed) for mixed in (False, True)]
try:
    with joined() as ranks:
        check_shared(AdaptDirectory(OUT / f"place of {RANK}"), ranks)
except BonsaiError as error:
    found["not shared"] = f"{type(error).__name__}: {error}"
try:
    adapt(AdaptConfig.model_validate(settings))
except BonsaiError as error:
    found["occupied"] = f"{type(error).__name__}: {error}"
found["written"] = written
(OUT / f"found-{RANK}.json").write_text(json.dumps(found))
"""


class Killed(NamedTuple):
    """An adaptation in two processes, the second of which was killed after the fourth step."""

    directory: Path
    status: int
    output: str
    errors: str


class Both(NamedTuple):
    """The same adaptations in one process and in two.

    Attributes:
        alone: results, by the names of settings.
        found: what the script told, of each process.
        folder: with the directories of those in two.
    """

    alone: dict[str, AdaptResult]
    found: list[dict[str, Any]]
    folder: Path


def configured(pruned: Path, out: Path, **settings: Any) -> AdaptConfig:
    base: dict[str, Any] = {"steps": 6, "batch_size": 4, "sequence_length": 32, "eval_samples": 2, "device": "cpu"}
    base |= {"eval_sequence_length": 64, "learning_rate": 3e-3, "lora_rank": 4, "evaluations": 2, "save_minutes": 0}
    model = pruned.parent / settings.pop("model", pruned.name)
    return AdaptConfig.model_validate({**base, "model": str(model), "out": out, **settings})


def weights(result: AdaptResult) -> bytes:
    return (result.model_path / "model.safetensors").read_bytes()


def launched(*arguments: str) -> subprocess.Popen[str]:
    """Two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*launcher, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment)


@pytest.fixture(scope="module")
def pruned(
    small_run: RunConfig,
    registry: Registry,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run, beside one of a model whose embeddings are its head too."""
    folder = tmp_path_factory.mktemp("runs")
    tied = saved(Pico("llama", 1, tied=True), tokenizer, folder / "dense")
    for name, model in (("tied", str(tied)), ("pruned", small_run.model)):
        run(small_run.model_copy(update={"model": model, "out": folder / name}), registry=registry)
    return folder / "pruned"


@pytest.fixture(scope="module")
def killed(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return killed_early("one pass each", pruned, tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def killed_sharded(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return killed_early("sharded", pruned, tmp_path_factory.mktemp("killed"))


def killed_early(name: str, pruned: Path, folder: Path) -> Killed:
    recipe, out = folder / "recipe.yaml", folder / "out"
    recipe.write_text(configured(pruned, out, **SETTINGS[name]).to_yaml())
    command = ["adapt", str(pruned), "--config", str(recipe), "--out", str(out), "--json-lines"]
    with launched("-m", "bonsai_core", *command) as process:
        assert process.stdout is not None
        lines = list[str]()
        for line in process.stdout:
            lines.append(line)
            if '"StepDone"' in line and json.loads(line)["step"] == 4:
                (second,) = (
                    child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"
                )
                second.kill()
        _, errors = process.communicate(timeout=60)
    return Killed(out, process.returncode, "".join(lines), errors)


@pytest.fixture(scope="module")
def both(pruned: Path, killed: Killed, killed_sharded: Killed, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("ranks")
    two = folder / "two"
    shutil.copytree(killed.directory, two / "killed")
    shutil.copytree(killed_sharded.directory, two / "killed sharded")
    configs = {
        name: configured(pruned, two / name, **settings).model_dump(mode="json") for name, settings in SETTINGS.items()
    }
    (folder / "script.py").write_text(SCRIPT)
    with launched(str(folder / "script.py"), str(two), json.dumps(configs)) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    alone = {
        name: adapt(configured(pruned, folder / name, **settings | {"shard": False}), registry=Registry())
        for name, settings in SETTINGS.items()
    }
    found = [json.loads((two / f"found-{rank}.json").read_text()) for rank in range(2)]
    return Both(alone, found, two)


def assert_same(found: list[dict[str, float]], expected: list[dict[str, float]], rounding: float = ROUNDING) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=rounding, abs=1e-9)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_have_the_losses_and_the_curve_of_one(both: Both, name: str) -> None:
    alone, two = both.alone[name], AdaptResult.open(both.folder / name)
    assert_same(two.report["losses"], alone.report["losses"])
    assert [row["perplexity"] for row in two.report["curve"]] == pytest.approx(
        [row["perplexity"] for row in alone.report["curve"]], rel=1e-5
    )
    assert two.report["losses"][0] != two.report["losses"][-1]
    assert [found[name] for found in both.found] == [two.report["losses"]] * 2  # all return the result


@pytest.mark.parametrize("name", ["one pass each", "sharded"])
def test_with_one_pass_each_not_a_bit_differs(both: Both, name: str) -> None:
    alone, two = both.alone[name], AdaptResult.open(both.folder / name)
    assert two.report["curve"] == alone.report["curve"]
    assert two.report["losses"] == alone.report["losses"]
    assert weights(two) == weights(alone)


def test_each_process_has_its_part_of_sharded_weights_gradients_and_moments(both: Both, pruned: Path) -> None:
    count = sum(parameter.numel() for parameter in load_model(str(pruned / "model"), device="cpu").parameters())
    ours, theirs = (found["parts"] for found in both.found)
    for first, second, rounding in zip(ours, theirs, (1e-6, 0.1), strict=True):  # in float32, and in bfloat16
        assert [sum(pair) for pair in zip(first["here"], second["here"], strict=True)] == [count] * 3
        assert max(*first["here"], *second["here"]) < 0.51 * count
        assert first["error"] == second["error"] < rounding  # of gradients
        assert first["same"]
        assert second["same"]
        assert len(first["kept"]) > 9
        assert not any(first["kept"])  # weights for the backward pass, which are gathered again then


def test_only_the_first_process_writes_but_for_parts_of_what_the_teacher_says(both: Both) -> None:
    first, second = (set(found["written"]) for found in both.found)
    assert first > {"adapt.yaml.partial", "state.safetensors.partial", "report.json.partial", "windows-0.bin"}
    assert second == {"windows-12.bin", "windows-12.json.partial"}


def test_a_directory_that_holds_something_is_refused_on_all(both: Both) -> None:
    first, second = (found["occupied"] for found in both.found)
    assert "already holds a run. Continue it with: bonsai resume" in first
    assert second.startswith("OtherRankError")


def test_a_directory_that_not_all_see_is_refused(both: Both) -> None:
    first, second = (found["not shared"] for found in both.found)
    assert "place of 0 is not the same directory for all 2 processes: number 1 cannot see what" in first
    assert second.startswith("OtherRankError")
    assert not (both.folder / "place of 0").exists()


@pytest.mark.parametrize("which", ["killed", "killed_sharded"])
def test_a_process_that_is_killed_ends_all(which: str, request: pytest.FixtureRequest) -> None:
    killed: Killed = request.getfixturevalue(which)
    assert killed.status != 0
    assert killed.output.count('"AdaptationStarted"') == killed.output.count('"step": 3,') == 1
    assert "fault in Bonsai" not in killed.errors
    assert not AdaptDirectory.open(killed.directory).is_locked()


@pytest.mark.parametrize(
    ("which", "name", "resumed"),
    [("killed", "one pass each", "killed"), ("killed_sharded", "sharded", "killed sharded")],
)
def test_it_costs_nothing_that_was_saved(
    both: Both, which: str, name: str, resumed: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    killed: Killed = request.getfixturevalue(which)
    shutil.copytree(killed.directory, tmp_path / "alone")
    resume(tmp_path / "alone", registry=Registry())
    expected = both.alone[name]
    for directory in (tmp_path / "alone", both.folder / resumed):
        found = AdaptResult.open(directory)
        assert found.report["losses"] == expected.report["losses"]
        assert found.report["curve"] == expected.report["curve"]
        assert weights(found) == weights(expected)


def test_a_mistake_is_told_of_once(tmp_path: Path) -> None:
    with launched("-m", "bonsai_core", "resume", str(tmp_path / "nothing")) as process:
        words = " ".join("".join(process.communicate(timeout=60)).split())
    assert process.returncode == 1
    assert words.count(f"{tmp_path}/nothing holds no run") == 1
    assert "Error in process" not in words


@pytest.mark.parametrize(
    ("settings", "ranks", "expected"),
    [
        ({"batch_size": 8}, 1, (8, 1)),
        ({"batch_size": 8}, 4, (2, 1)),
        ({"batch_size": 8, "micro_batch_size": 1}, 4, (1, 2)),
        ({"batch_size": 8}, 3, "Start 1, 2, 4 or 8 of them; or begin with --batch-size 6 or 9"),
        ({"batch_size": 2}, 3, "Start 1 or 2 of them; or begin with --batch-size 3"),
        ({"batch_size": 8, "micro_batch_size": 4}, 4, "Give --micro-batch-size 1 or 2; when resuming"),
    ],
)
def test_windows_are_spread_evenly_or_refused(settings: dict[str, Any], ranks: int, expected: Any) -> None:
    config = AdaptConfig(model="x", **settings)
    if isinstance(expected, tuple):
        assert Passes.of(config, ranks) == Passes(*expected)
    else:
        with pytest.raises(BonsaiError, match=expected):
            Passes.of(config, ranks)


def test_memory_is_saved_by_a_number_of_windows_that_fits_the_ranks() -> None:
    assert Passes.of(AdaptConfig(model="x", batch_size=12), 2).fewer == 3
    assert Passes.of(AdaptConfig(model="x", batch_size=4, micro_batch_size=1), 2).fewer == 1


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_ranks_together_see_each_steps_windows(ranks: int) -> None:
    config = AdaptConfig(model="x", batch_size=4, steps=3)
    schedule = plan_schedule(np.arange(20)[:, None], config)
    parts = [
        np.array([int(row["window"]) for row in Windows(schedule, 1, Ranks(number, ranks))]).reshape(2, -1)
        for number in range(ranks)
    ]
    assert np.concatenate(parts, axis=1).tolist() == schedule.order_S.reshape(3, 4)[1:].tolist()


def test_parts_of_what_the_teacher_says_make_the_whole(pico_directory: Path, tmp_path: Path) -> None:
    windows = np.random.default_rng(0).integers(VOCABULARY, size=(7, 16))
    passes = forward.Passes(load_model(str(pico_directory), device="cpu"), Chunks(16, print))

    def stored(name: str) -> StoredTeacher:
        return StoredTeacher(tmp_path / name, (7, 15, 5), VOCABULARY)

    whole = stored("whole")
    whole.compute(whole.missing, passes, windows, lambda *step: None)
    stored("parts").compute([range(2, 4)], passes, windows, lambda *step: None)
    missing = stored("parts").missing
    assert missing == [range(2), range(4, 7)]
    shares = [share_of(missing, rank, 3) for rank in range(3)]
    assert shares == [[range(1)], [range(1, 2), range(4, 5)], [range(5, 7)]]
    for share in reversed(shares):
        stored("parts").compute(share, passes, windows, lambda *step: None)
    parts = stored("parts")
    assert parts.complete
    chosen = torch.tensor([6, 0, 3, 1])
    for ours, theirs in zip(*(t.tokens(chosen, torch.device("cpu")) for t in (parts, whole)), strict=True):
        assert torch.equal(ours, theirs)
    (tmp_path / "parts/windows-4.bin").write_bytes(b"damaged")
    assert stored("parts").missing == [range(4, 5)]


def test_other_commands_are_refused_under_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for command, words in (("run", "Prune in one process first"), ("families", "Run it in one process")):
        error = CliRunner().invoke(cli, [command]).exception
        assert isinstance(error, BonsaiError)
        assert f"4 processes, and `bonsai {command}` works in one. {words}" in str(error)
    monkeypatch.setenv("RANK", "1")
    assert type(CliRunner().invoke(cli, ["families"]).exception).__name__ == "OtherRankError"


def test_what_shards_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_FSDP": "true"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BonsaiError, match=r"asks for FSDP, .* give --method full --shard"), joined():
        pass


def test_shards_take_several_processes_full_training_and_a_declared_family(
    pruned: Path, tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(BonsaiError, match="--shard spreads a model over the processes of a launcher, and there is one"):
        adapt(configured(pruned, tmp_path / "out", method="full", shard=True), registry=registry)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValidationError, match="shard is for method full"):
        configured(pruned, tmp_path / "out", method="lora", shard=True)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 1, "n_head": 4}
    AutoModelForCausalLM.from_config(CONFIG_MAPPING["bloom"](**sizes)).save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    config = configured(pruned, tmp_path / "out", method="full", shard=True, model=tmp_path / "bloom")
    with pytest.raises(BonsaiError, match="--shard needs a declared model family"):
        open_adaptation(config, registry, print)
