"""The model card of a checkpoint: what it says, and that it says nothing of the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path, PureWindowsPath
from typing import Any, cast

import pytest
import yaml
from conftest import Pico, saved
from huggingface_hub import ModelCard
from transformers import PreTrainedTokenizerFast

from bonsai_core import AdaptConfig, Checkpoint, Exporter, Registry, RunConfig, adapt, export, resume, run
from bonsai_core.checkpoint.licence import stated_licence
from bonsai_core.publishing.card import Loading, render_card
from bonsai_core.publishing.facts import Facts, Origin, facts_of
from bonsai_core.publishing.loading import commands_for
from bonsai_core.publishing.names import hub_datasets, hub_model, public_name, public_text, published
from bonsai_core.runtimes.checkpoint import open_checkpoint

PARENT_CARD = """---
license: other
license_name: pico-licence
license_link: LICENSE
---
Prose of the parent.
"""
HOSTILE = "ev|il `name` <script>\x1b[31m"


@pytest.fixture(scope="module")
def finished(
    small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run, with latency, of a model whose files have a licence, and whose texts and folder have unusual names."""
    folder = tmp_path_factory.mktemp("home") / "ann" / "secret place"
    parent = saved(Pico("llama", 2), tokenizer, folder / "Pico-7B")
    (parent / "README.md").write_text(PARENT_CARD, encoding="utf-8")
    for name in ("LICENSE", "NOTICE.txt"):
        (parent / name).write_text(f"The {name} of the parent.", encoding="utf-8")
    text = shutil.copyfile(small_run.dataset, folder / "my, text.txt")
    changes = {"model": str(parent), "dataset": str(text), "out": folder / "runs" / "a", "latency": True}
    return run(small_run.model_copy(update=changes)).directory


def card_of(directory: Path) -> str:
    return (directory / "README.md").read_text(encoding="utf-8")


def metadata_of(card: str) -> dict[str, Any]:
    """What the hub's client reads of a card."""
    data: Any = ModelCard(card).data
    return dict(data.to_dict())


def report_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return found


def sections(card: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_hubs_client_reads_its_metadata(finished: Path) -> None:
    data = metadata_of(card_of(finished / "model"))
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert {"bonsai", "pruned", "structured-pruning"} <= set(data["tags"])
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "pico-licence", "LICENSE")
    assert not {"base_model", "datasets"} & data.keys(), "neither is known to be on the hub"


def test_its_figures_are_those_of_the_report(finished: Path) -> None:
    results, report = sections(card_of(finished / "model"))["Results"], report_of(finished)
    for figure in (
        f"| {report['perplexity']['dense']:.2f} | {report['perplexity']['pruned']:.2f} |",
        f"| {report['parameters']['dense']:,} | {report['parameters']['pruned']:,} |",
        f"| | {report['rounds'][-1]['divergence']['held_out']:.3f} |",
        f"| | {report['rounds'][-1]['divergence']['guard']:.3f} |",
        f"| 1 | {report['latency']['phases']['decode']['speedup']['median']:.2f} (",
    ):
        assert figure in results
    assert "(2 windows of 64 tokens)" in results
    assert f"Speed: `{report['latency']['device']}, " in results


def test_its_settings_repeat_the_run(finished: Path) -> None:
    made = sections(card_of(finished / "model"))["How it was made"]
    block = "\n".join(line[4:] for line in made.splitlines() if line.startswith("    "))
    repeated = RunConfig.from_mapping(yaml.safe_load(block), "the card").decisive()
    original = report_of(finished)["config"]
    paths = {"model", "dataset", "eval_dataset", "guard_dataset"}
    assert {name for name in repeated if repeated[name] != original[name]} == paths
    assert (repeated["model"], repeated["dataset"]) == ("Pico-7B", "my, text.txt")


def test_nothing_of_the_machine_is_in_it(finished: Path) -> None:
    card = card_of(finished / "model")
    folders = [*finished.parents, Path.home(), Path.cwd()]
    assert not [folder for folder in folders if len(folder.parts) > 1 and f"{folder}/" in card]
    assert not [word for word in ("secret", "ann", os.uname().nodename) if re.search(rf"\b{re.escape(word)}\b", card)]
    assert not re.search(r"(?<![\w.])/[a-z]+/", card.replace("https://", "")), "an absolute path"


def test_the_parents_licence_goes_along_but_not_its_card(finished: Path) -> None:
    for name in ("LICENSE", "NOTICE.txt"):
        assert (finished / "model" / name).read_text(encoding="utf-8") == f"The {name} of the parent."
    assert "Prose of the parent" not in card_of(finished / "model")


def test_every_runtime_that_takes_it_says_how(finished: Path) -> None:
    loading = sections(card_of(finished / "model"))["How to load it"]
    assert '    transformers.AutoModelForCausalLM.from_pretrained("MODEL", trust_remote_code=True)' in loading
    assert "    vllm serve MODEL" in loading
    assert "    bonsai export MODEL --format gguf --out MODEL-gguf.gguf" in loading
    assert "transformers4" not in loading, "which cannot take layers of different widths"


def test_a_resume_writes_it_again(finished: Path) -> None:
    before = card_of(finished / "model")
    (finished / "model" / "README.md").unlink()
    resume(finished)
    assert card_of(finished / "model") == before


def test_an_adaptation_says_what_it_has_recovered(finished: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 1, "batch_size": 1, "sequence_length": 16, "evaluations": 1, "device": "cpu"}
    result = adapt(AdaptConfig.model_validate({"model": str(finished), "out": tmp_path / "adapted", **settings}))
    card = card_of(result.model_path)
    found = result.report["perplexity"]
    assert "| dense | pruned | adapted |" in card
    assert f"| {found['teacher']:.2f} | {found['before']:.2f} | {found['after']:.2f} |" in card
    assert f"{report_of(finished)['perplexity']['pruned']:.2f} | - |" in card
    assert "distillation" in metadata_of(card)["tags"]
    assert "`Pico-7B`, pruned and adapted" in card
    assert str(tmp_path) not in card
    assert str(finished.parent) not in card


def test_an_export_says_how_its_runtime_loads_it(finished: Path, tmp_path: Path) -> None:
    out = export(str(finished), "vllm", tmp_path / "out").path
    loading = sections(card_of(out))["How to load it"]
    assert "vllm serve MODEL" in loading
    assert "transformers.Auto" not in loading
    assert sections(card_of(out))["Results"] == sections(card_of(finished / "model"))["Results"]


def test_without_a_report_there_are_no_figures(finished: Path, registry: Registry, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(finished / "model", tmp_path / "moved"))
    facts = facts_of(moved)
    assert facts is not None
    results = sections(render_card(facts, []))["Results"]
    assert not re.search(r"\d", results)


def test_what_is_not_a_checkpoint_of_ours_has_none(finished: Path, small_run: RunConfig, tmp_path: Path) -> None:
    assert facts_of(Path(small_run.model)) is None
    copy = Path(shutil.copytree(finished / "model", tmp_path / "copy"))
    for damaged in ("[]", "{}", '{"base_model": 1, "config": []}', "{"):
        (copy / "bonsai.json").write_text(damaged, encoding="utf-8")
        assert facts_of(copy) is None


def test_names_of_others_are_not_markup() -> None:
    origin = Origin.model_validate(
        {
            "base_model": f"/models/{HOSTILE}",
            "sparsity": 0.5,
            "config": {"units": ["mlp"], "prior": HOSTILE, "dataset": f"/texts/{HOSTILE}\n## Limits\n---"},
            "versions": {HOSTILE: HOSTILE},
        }
    )
    card = render_card(Facts(origin, None, None), [Loading("run\ntime", ["x"])])
    assert "\x1b" not in card
    assert len(sections(card)) == 5
    for line in card.splitlines():
        if "<script>" in line:
            assert line.startswith("    ") or re.search(r"`[^`]*<script>[^`]*`", line)
    ModelCard(card)


def test_the_demo_and_texts_of_the_hub_are_named_as_there() -> None:
    settings = {"units": ["mlp"], "dataset": "c4:0.7,/home/ann/mine.jsonl:0.3"}
    origin = Origin.model_validate({"base_model": "demo", "sparsity": 0.2, "config": settings})
    card = render_card(Facts(origin, None, None), [])
    data = metadata_of(card)
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data["base_model_relation"] == "finetune"
    assert data["license"] == "apache-2.0"
    assert data["datasets"] == ["allenai/c4"]
    assert "c4:0.7,mine.jsonl:0.3" in card
    assert "/home" not in card


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("owner/name", "owner/name"),
        ("/home/ann/models/Llama", "Llama"),
        ("~/models/Llama/", "Llama"),
        ("./Llama", "Llama"),
        ("..", "local"),
        ("/", "local"),
        (r"C:\Users\ann\Llama", "Llama"),
        (r"\\server\share\Llama", "Llama"),
        ("file:///home/ann/Llama", "Llama"),
        ("a/b/c", "c"),
        (
            "/home/ann/.cache/huggingface/hub/models--meta-llama--Llama-2-7b-hf/snapshots/abc",
            "meta-llama/Llama-2-7b-hf",
        ),
    ],
)
def test_a_path_is_published_as_its_last_part(name: str, public: str) -> None:
    assert public_name(name) == public
    assert hub_model(name) == (public if public.count("/") == 1 else None)


def test_settings_are_published_without_paths() -> None:
    settings = {
        "dataset": "/a/x.txt:1,/b c/y.txt:3",
        "prior": {"name": "mine", "file": "/srv/ann/scores.npz", "more": ["clients/acme.npz", r"clients\acme.npz"]},
        "metric": {"name": "mine", "questions": "clients/acme/"},
        "model": "owner/name",
        "seed": 1,
    }
    cleaned = published({"config": settings, "bits": "/9j/4AAQ", "kept_units": {"layers.0.mlp": [1, 2]}})
    assert cleaned["config"]["dataset"] == "x.txt:1,y.txt:3"
    assert cleaned["config"]["prior"] == {"name": "mine", "file": "scores.npz", "more": ["acme.npz", "acme.npz"]}
    assert "clients" not in json.dumps(cleaned), "whether a path is absolute or not"
    assert cleaned["config"]["model"] == "owner/name"
    assert cleaned["bits"] == "/9j/4AAQ", "data is not a path"
    assert cleaned["kept_units"] == {"layers.0.mlp": [1, 2]}
    assert public_text("owner/name[en]:train#text") == "owner/name[en]:train#text"
    assert hub_datasets("owner/name[en]:train#text") == ["owner/name"]


def test_commands_name_a_model_of_the_hub_as_the_hub_does(finished: Path, registry: Registry) -> None:
    class OnWindows:
        def __init__(self, quote: str) -> None:
            self.quote = quote

        def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
            return [f"serve {self.quote}{PureWindowsPath(out)}{self.quote}"]

    checkpoint = open_checkpoint(str(finished), registry, lambda text: None)
    for quote in ("", "'"):
        assert commands_for(cast(Exporter, OnWindows(quote)), checkpoint, "ann/small") == ["serve ann/small"]


@pytest.mark.parametrize(
    ("front", "stated"),
    [
        ("license: mit", {"license": "mit"}),
        (
            "license: other\nlicense_link: https://example.org/licence",
            {"license": "other", "license_link": "https://example.org/licence"},
        ),
        ("license: [mit, apache-2.0]", {}),
        ("license: 'a: b\n# c'", {}),
        ("license: other\nlicense_link: file:///home/ann/LICENSE", {"license": "other"}),
        ("license: !!python/object:os.system x", {}),
        ("{", {}),
    ],
)
def test_a_licence_is_repeated_if_it_can_be_one(front: str, stated: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
    assert stated_licence(tmp_path) == stated
    assert stated_licence(tmp_path / "none") == {}
