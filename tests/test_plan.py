"""Plans: what they rebuild is the run's checkpoint, bit for bit, or there is an error and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import PICOS, Pico, saved
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, RunConfig, apply_plan, export, run
from bonsai_core.checkpoint.digests import weight_digests
from bonsai_core.cli.main import cli
from bonsai_core.errors import DamagedError
from bonsai_core.runtimes.plans.file import Kept, PlanFile

REVISION = "0123456789abcdef0123456789abcdef01234567"


def pico(name: str) -> Pico:
    return next(pico for pico in PICOS if str(pico) == name)


CASES: dict[str, tuple[Pico, dict[str, Any]]] = {
    "free": (pico("llama-gqa"), {}),
    "uniform": (pico("llama-gqa"), {"shapes": "uniform"}),
    "no repair": (pico("llama-gqa"), {"compensator": "none"}),
    "biases added": (pico("mistral-mha"), {"compensator": "bias", "min_units": 0, "sparsity": 0.5}),
    "biases of its own": (pico("llama-gqa-bias"), {}),
    "query heads": (pico("qwen3-gqa"), {"units": ("query", "mlp")}),
    "layers": (pico("llama-mha"), {"units": ("layer",), "sparsity": 0.34, "round_fraction": 0.34}),
    "layers and sub-layers": (
        pico("smollm3-gqa-tied"),
        {"units": ("attention", "mlp", "sublayer", "layer"), "min_units": 0, "sparsity": 0.5},
    ),
    "tied": (pico("gemma2-gqa-tied"), {}),
    "fused": (pico("phi3-gqa"), {}),
    "interleaved": (pico("gpt_neox-mha"), {}),
    "no module around the mlp": (pico("opt-mha-tied"), {}),
    "experts": (pico("mixtral-gqa"), {}),
    "experts, uniform": (pico("qwen2_moe-gqa"), {"shapes": "uniform", "round_fraction": 0.3}),
    "widths of experts": (pico("olmoe-mha"), {"units": ("attention", "expert_width"), "sparsity": 0.2}),
    "another type": (pico("qwen2-gqa-tied"), {"dtype": "bfloat16"}),
}


OUTPUTS = {"o_proj", "out_proj", "dense", "down_proj", "fc2", "dense_4h_to_h"}


def finished(small_run: RunConfig, registry: Registry, parent: Path, out: Path, **changes: Any) -> Path:
    """The checkpoint of a run."""
    fixed = {"model": str(parent), "prior_samples": 4, "latency": False, "guard_samples": 0, "out": out}
    config = RunConfig.model_validate({**small_run.model_dump(), **fixed, **changes})
    return run(config, registry=registry).model_path


def plan_of(model: Path, registry: Registry) -> Path:
    return export(str(model), "plan", model.parent / "plan", registry=registry).path


@pytest.fixture(scope="module")
def made(small_run: RunConfig, registry: Registry, pico_directory: Path, tmp_path_factory: Any) -> Path:
    """A folder with a base model, ``base``, and a run of it, ``run``, with its plan in ``run/plan``."""
    folder: Path = tmp_path_factory.mktemp("made")
    shutil.copytree(pico_directory, folder / "base")
    plan_of(finished(small_run, registry, folder / "base", folder / "run"), registry)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The same folder, to be changed; its plan says that the base is in it."""
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    for file in ("run/plan/plan.json", "run/model/bonsai.json"):
        (folder / file).write_text((folder / file).read_text().replace(str(made / "base"), str(folder / "base")))
    return folder


def contents(directory: Path, *left_out: str) -> dict[str, bytes]:
    files = {file.relative_to(directory).as_posix(): file for file in directory.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if name not in left_out}


def assert_same(applied: Path, model: Path, *but: str) -> None:
    but = ("README.md", *but)  # a card has the figures of the run's report, which no plan has
    one, other = contents(applied, *but), contents(model, *but)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def change_plan(plan: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((plan / "plan.json").read_text())
    change(values)
    (plan / "plan.json").write_text(json.dumps(values))


@pytest.mark.parametrize("case", CASES)
def test_a_plan_gives_the_checkpoint_bit_for_bit(
    small_run: RunConfig, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, case: str
) -> None:
    architecture, changes = CASES[case]
    parent = saved(architecture, tokenizer, tmp_path / "parent", max_shard_size="60KB")
    model = finished(small_run, registry, parent, tmp_path / "run", **changes)
    plan = plan_of(model, registry)
    assert_same(apply_plan(plan, registry=registry), model)
    written = PlanFile.read(plan)
    kept = json.loads((model / "bonsai.json").read_text())["kept_units"]
    assert {name: np.flatnonzero(site.vector).tolist() for name, site in written.keep.items()} == kept
    repairs = {name for file in plan.rglob("*.safetensors") for name in load_file(file)}
    assert repairs == set(written.repaired)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in repairs if name.endswith("weight")} <= OUTPUTS
    assert bool(repairs) == (case not in ("no repair", "widths of experts"))


def test_without_repairs_it_is_a_few_kilobytes_whatever_the_size_of_the_weights(
    small_run: RunConfig, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parent = saved(pico("llama-gqa"), tokenizer, tmp_path / "parent")
    plan = plan_of(finished(small_run, registry, parent, tmp_path / "run", compensator="none"), registry)
    assert {file.name for file in plan.iterdir()} == {"plan.json", "README.md"}
    assert (plan / "plan.json").stat().st_size < 5_000


def test_what_ran_on_disk_is_rebuilt_too(
    small_run: RunConfig, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parent = saved(pico("llama-gqa"), tokenizer, tmp_path / "parent", max_shard_size="60KB")
    placed = {"device_map": "auto", "max_memory": "cpu=170KB"}
    model = finished(small_run, registry, parent, tmp_path / "run", **placed)
    assert_same(apply_plan(plan_of(model, registry), registry=registry), model)


def test_digests_do_not_depend_on_the_number_of_files(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    one = saved(pico("llama-gqa"), tokenizer, tmp_path / "one")
    many = saved(pico("llama-gqa"), tokenizer, tmp_path / "many", max_shard_size="60KB")
    assert len(list(many.glob("*.safetensors"))) > 1
    assert weight_digests(one) == weight_digests(many)
    weights = load_file(one / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nextafter(
        weights["model.layers.1.mlp.down_proj.weight"][0, 0], torch.tensor(9.0)
    )
    save_file(weights, one / "model.safetensors")
    before, after = weight_digests(many), weight_digests(one)
    assert [name for name in before if before[name] != after[name]] == ["model.layers.1"]


class TestBases:
    def test_a_moved_base_is_named(self, copy: Path, registry: Registry) -> None:
        plan = copy / "run" / "plan"
        (copy / "base").rename(copy / "elsewhere")
        with pytest.raises(BonsaiError, match=r"base model of the plan, .*/base, is not there.*--base names the place"):
            apply_plan(plan, copy / "applied", registry=registry)
        applied = apply_plan(plan, copy / "applied", base=str(copy / "elsewhere"), registry=registry)
        assert_same(applied, copy / "run" / "model", "bonsai.json")
        before, after = (json.loads((path / "bonsai.json").read_text()) for path in (copy / "run" / "model", applied))
        assert after == {**before, "base_model": str(copy / "elsewhere")}

    def test_a_base_on_the_hub_is_that_of_its_commit(
        self, small_run: RunConfig, registry: Registry, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository, newest = copy / "hub" / "models--me--pico", "f" * 40
        shutil.copytree(copy / "base", repository / "snapshots" / REVISION)
        main = repository / "refs" / "main"
        main.parent.mkdir()
        main.write_text(REVISION)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(copy / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        model = finished(small_run, registry, Path("me/pico"), copy / "of the hub")
        assert json.loads((model / "bonsai.json").read_text())["base_revision"] == REVISION

        other = Path(shutil.copytree(copy / "base", repository / "snapshots" / newest))
        weights = load_file(other / "model.safetensors")
        save_file({name: tensor + 1 for name, tensor in weights.items()}, other / "model.safetensors")
        main.write_text(newest)
        plan = plan_of(model, registry)
        assert_same(apply_plan(plan, registry=registry), model)
        with pytest.raises(BonsaiError, match=f"is not the model that the plan is for: .* me/pico at {REVISION}, with"):
            apply_plan(plan, copy / "newest", base=str(other), registry=registry)
        shutil.rmtree(repository / "snapshots" / REVISION)
        with pytest.raises(BonsaiError, match=f"me/pico at {REVISION}, is not there"):
            apply_plan(plan, copy / "gone", registry=registry)

    @pytest.mark.parametrize("other", ["llama-gqa", "llama-mha", "qwen3-gqa", "mixtral-gqa"])
    def test_another_model_is_refused(
        self, copy: Path, registry: Registry, tokenizer: PreTrainedTokenizerFast, other: str
    ) -> None:
        pico(other).build(seed=1).save_pretrained(copy / "other")
        tokenizer.save_pretrained(copy / "other")
        with pytest.raises(BonsaiError, match=r"other is not the model that the plan is for: .*/base, with --base"):
            apply_plan(copy / "run" / "plan", copy / "applied", base=str(copy / "other"), registry=registry)
        assert not list(copy.glob("*applied*"))

    @pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "generation_config.json", "config.json"])
    def test_one_change_in_the_base_is_found(self, copy: Path, registry: Registry, file: str) -> None:
        path = copy / "base" / file
        if file == "model.safetensors":
            weights = load_file(path)
            weights["model.layers.0.self_attn.q_proj.weight"][-1, -1] += 1  # behind what the fingerprint reads
            save_file(weights, path)
        elif file == "config.json":
            path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
        else:
            path.write_text(path.read_text() + "\n")
        what = "model.layers.0" if file == "model.safetensors" else file
        with pytest.raises(BonsaiError, match=f"{what}.* differ"):
            apply_plan(copy / "run" / "plan", copy / "applied", registry=registry)
        assert not list(copy.glob("*applied*"))

    def test_a_base_that_has_changed_since_the_run_has_no_plan(self, copy: Path, registry: Registry) -> None:
        weights = load_file(copy / "base" / "model.safetensors")
        weights["model.norm.weight"] *= 2
        save_file(weights, copy / "base" / "model.safetensors")
        with pytest.raises(BonsaiError, match=r"base as that is now: model\.norm\.weight differs"):
            export(str(copy / "run"), "plan", copy / "plan", registry=registry)
        assert not (copy / "plan").exists()


def test_files_of_other_versions_may_differ_and_tensors_may_not(copy: Path, registry: Registry) -> None:
    plan = copy / "run" / "plan"
    said: list[str] = []
    before = PlanFile.read(plan)
    change_plan(plan, lambda values: values["files"].update({"config.json": "0" * 64}))
    with pytest.raises(BonsaiError, match=r"config\.json of the checkpoint differ"):
        apply_plan(plan, copy / "applied", registry=registry)
    change_plan(plan, lambda values: values["run"]["versions"].update(transformers="5.14.0"))
    apply_plan(plan, copy / "applied", registry=registry, warn=said.append)
    assert len(said) == 1
    assert "All tensors are the same, and config.json differ" in said[0]
    change_plan(plan, lambda values: values["weights"].update({"model.layers.2": "0" * 64}))
    with pytest.raises(BonsaiError, match=r"not the checkpoint that the plan was made from: model\.layers\.2 differ"):
        apply_plan(plan, copy / "again", registry=registry)
    assert before.num_bytes == (copy / "run" / "model" / "model.safetensors").stat().st_size


class TestRefusals:
    def test_a_model_without_a_record_of_its_making(self, made: Path, registry: Registry, tmp_path: Path) -> None:
        with pytest.raises(BonsaiError, match=r"There is no bonsai\.json.*These formats can: .*hf"):
            export(str(made / "base"), "plan", tmp_path / "plan", registry=registry)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"adaptation": {"of": "x"}}, "adapted after it was pruned"),
            ({"base_model": "/nowhere/base"}, "base model, /nowhere/base, cannot be used: There is no model directory"),
            ({"sparsity": float("nan")}, "does not say what a run writes into it: Out of range float"),
            ({"base_model": 3}, "does not say what a run writes into it: base_model"),
            ({"kept_units": None}, "does not say what a run writes into it: kept_units"),
            ({"kept_units": {"layers.0.mlp": [1]}}, "other sites"),
        ],
        ids=lambda value: "",
    )
    def test_other_checkpoints(self, copy: Path, registry: Registry, change: dict[str, Any], message: str) -> None:
        file = copy / "run" / "model" / "bonsai.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        with pytest.raises(BonsaiError, match=message):
            export(str(copy / "run"), "plan", copy / "plan", registry=registry)
        assert not list(copy.glob("*plan*"))

    def test_what_is_there_stays(self, copy: Path, registry: Registry) -> None:
        (copy / "run" / "plan-model").mkdir()
        with pytest.raises(BonsaiError, match="plan-model exists already"):
            apply_plan(copy / "run" / "plan", registry=registry)


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an unknown key": (lambda v: v.update(hook="x"), "hook"),
    "a later format": (lambda v: v.update(format=2), "format"),
    "no base": (lambda v: v.pop("base"), "base"),
    "a base with a zero byte": (lambda v: v["base"].update(model="a\0b"), "zero byte"),
    "a base that is a file": (lambda v: v["base"].update(model=__file__), "is a file"),
    "a base in another place": (lambda v: v["base"].update(model="../../etc"), "is not there"),
    "a revision that is a path": (lambda v: v["base"].update(revision="../../../main"), "revision"),
    "a digest that is none": (lambda v: v["weights"].update({"model.layers.0": "x"}), "weights"),
    "a type that is none": (lambda v: v.update(dtype="load"), "dtype"),
    "units that are none": (lambda v: v.update(units=["everything"]), "units"),
    "units that exclude each other": (lambda v: v.update(units=["attention", "query"]), "attention or query"),
    "an unknown family": (lambda v: v.update(slicer="../evil"), "no slicer"),
    "other sites": (lambda v: v["keep"].update({"../x": v["keep"].pop("layers.0.mlp")}), "other sites"),
    "bits that are not base64": (lambda v: v["keep"]["layers.0.mlp"].update(bits="?"), "layers.0.mlp: bits are not"),
    "too few bits": (lambda v: v["keep"]["layers.0.mlp"].update(bits="AA=="), "layers.0.mlp: bits are not"),
    "a wrong count": (lambda v: v["keep"]["layers.0.mlp"].update(kept=1), "layers.0.mlp: bits are not"),
    "a huge site": (lambda v: v["keep"]["layers.0.mlp"].update(of=10**12), "layers.0.mlp"),
    "units beyond the site": (
        lambda v: v["keep"].update({"layers.0.mlp": {"kept": 80, "of": 80, "bits": "/////////////w=="}}),
        "layers.0.mlp has 48 units",
    ),
    "repairs outside": (lambda v: v["repaired"].append("../../../etc/passwd"), "does not have: '../../../etc/passwd'"),
    "repairs that are not there": (lambda v: v["repaired"].append("model.norm.weight"), "Copy the plan as a whole"),
    "repairs left out": (lambda v: v["repaired"].clear(), "differ"),
    "biases": (lambda v: v.update(added_biases=True), "differ"),
    "shapes": (lambda v: v.update(shapes="uniform"), "Uniform shapes"),
    "another type of number": (lambda v: v.update(dtype="float16"), "differ"),
    "more bytes than any disk": (lambda v: v.update(num_bytes=2**59), "Not enough room"),
    "numbers that JSON does not know": (lambda v: v["run"].update(sparsity=float("nan")), "cannot be read"),
    "characters that UTF-8 does not know": (lambda v: v["run"].update(config="\ud800"), "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_strangers_plan_writes_nothing_and_is_named(copy: Path, registry: Registry, case: str) -> None:
    change, message = HOSTILE[case]
    plan = copy / "run" / "plan"
    change_plan(plan, change)
    before = contents(copy)
    with pytest.raises(BonsaiError, match=message.replace("(", r"\(")):
        apply_plan(plan, copy / "applied", registry=registry)
    assert contents(copy) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, "\udc80", '{"format": 1e999}'], ids=lambda text: ascii(text[:8])
)
def test_what_is_not_a_plan_says_so(copy: Path, text: str) -> None:
    (copy / "run" / "plan" / "plan.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DamagedError, match="plan"):
        apply_plan(copy / "run" / "plan")
    for other in (copy / "base", copy / "nowhere", copy / "run" / "plan" / "plan.json"):
        with pytest.raises(DamagedError, match=r"is not a plan: there is no plan\.json in it"):
            apply_plan(other)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("pattern", ["plan.json", "*.safetensors"])
def test_pipes_are_not_waited_for(copy: Path, registry: Registry, pattern: str) -> None:
    path = next((copy / "run" / "plan").rglob(pattern))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedError, match=r"is not a plan|it is not a file"):
        apply_plan(copy / "run" / "plan", copy / "applied", registry=registry)


@pytest.mark.parametrize("how", ["cut short", "other values", "another shape", "another type"])
def test_damaged_repairs_are_found(copy: Path, registry: Registry, how: str) -> None:
    path = next((copy / "run" / "plan").rglob("*.safetensors"))
    tensors = load_file(path)
    name = next(iter(tensors))
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        whole = tensors[name]
        changed = {"other values": whole + 1, "another shape": whole.T.contiguous(), "another type": whole.half()}
        save_file({**tensors, name: changed[how]}, path)
    with pytest.raises(BonsaiError, match=r"Copy the plan as a whole|differ|which is \("):
        apply_plan(copy / "run" / "plan", copy / "applied", registry=registry)
    assert not list(copy.glob("*applied*"))


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_kept_units_are_written_as_bits_and_read_back(keep: list[bool]) -> None:
    kept = Kept.of_vector(np.array(keep))
    assert Kept.model_validate_json(kept.model_dump_json()).vector.tolist() == keep
    assert (kept.kept, kept.of) == (sum(keep), len(keep))


@settings(max_examples=10)
@given(data=st.data())
def test_whatever_a_plan_keeps_only_its_own_checkpoint_is_written(
    made: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    plan = Path(shutil.copytree(made / "run" / "plan", tmp_path_factory.mktemp("any") / "plan"))
    written = PlanFile.read(plan)
    name = data.draw(st.sampled_from(sorted(written.keep)))
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=written.keep[name].of, max_size=written.keep[name].of)))
    change_plan(plan, lambda values: values["keep"].update({name: Kept.of_vector(keep).model_dump()}))
    if (keep == written.keep[name].vector).all():
        assert apply_plan(plan, registry=registry).is_dir()
    else:
        with pytest.raises(BonsaiError):
            apply_plan(plan, registry=registry)
        assert not (plan.parent / "plan-model").exists()


def test_commands(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bonsai(*words: str) -> str:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    monkeypatch.chdir(copy)
    shown = bonsai("export", "run", "--format", "plan", "--out", "my plan", "--verify")
    assert "verified: applied to the base model, it gives the checkpoint, bit for bit" in shown
    assert "bonsai apply 'my plan'  # " in shown
    assert "kB in place of 0.2 MB" in shown
    assert sorted(path.name for path in copy.iterdir()) == ["base", "my plan", "run"]
    shown = bonsai("apply", "my plan")
    assert "my plan-model: every tensor is that of the plan's checkpoint" in shown
    assert_same(copy / "my plan-model", copy / "run" / "model")
