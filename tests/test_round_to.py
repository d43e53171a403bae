"""Widths that the hardware likes: what `--round-to` makes of a name, and that a resumed run keeps to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Pico
from transformers import AutoModelForCausalLM, AutoTokenizer

from bonsai_core import BonsaiError, Registry, RunConfig, resume, run
from bonsai_core.engine.machine import suited_to_machine
from bonsai_core.engine.setup import open_job
from bonsai_core.rundir import RunDirectory
from bonsai_core.selection.limits import multiples, suited_multiples


@pytest.mark.parametrize(
    ("hardware", "width", "multiple"),
    [
        ("gpu", 14_336, 64),
        ("gpu", 1_536, 64),
        ("gpu", 1_023, 32),
        ("gpu", 48, 2),
        ("gpu", 16, 1),
        ("gpu", 3, 1),
        ("cpu", 1_536, 16),
        ("cpu", 255, 8),
        ("cpu", 48, 2),
    ],
)
def test_multiples_are_those_of_the_hardware_or_a_sixteenth_of_the_width(
    hardware: str, width: int, multiple: int
) -> None:
    limit = suited_multiples(hardware, {"attention": 64, "mlp": width, "expert_width": 1024})
    assert limit.by_kind["mlp"] == multiple
    assert limit.by_kind["attention"] == limit.by_kind["query"] == limit.by_kind["layer"] == 1
    assert limit.by_kind["expert_width"] % multiples(1).by_kind["expert_width"] == 0


def test_auto_is_of_the_device_and_what_is_named_stays(small_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = small_run.model_copy(update={"round_to": "auto"})
    assert RunConfig().round_to == "auto"
    assert suited_to_machine(auto.model_copy(update={"device": "cpu"})).round_to == "cpu"
    for given in (1, 64, {"mlp": 8}, "gpu"):
        assert suited_to_machine(small_run.model_copy(update={"round_to": given})).round_to == given
    monkeypatch.setattr("bonsai_core.engine.machine.find_device", lambda name: torch.device("cuda"))
    assert suited_to_machine(auto).round_to == "gpu"


@pytest.mark.parametrize(
    ("given", "parsed"), [("auto", "auto"), ("gpu", "gpu"), ("64", 64), (1, 1), ("attention=2,mlp=64", None)]
)
def test_it_is_a_number_a_number_by_kind_or_a_name(given: object, parsed: object) -> None:
    found = RunConfig.from_mapping({"round_to": given}, "settings").round_to
    assert found == (parsed or {"attention": 2, "mlp": 64})
    assert RunConfig.from_mapping({"round_to": found}, "settings").round_to == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("cuda", "'auto', 'cpu' or 'gpu' (got 'cuda')"),
        (0, "greater than 0"),
        ("8x", "valid integer"),
        (True, "numbers"),
    ],
)
def test_anything_else_is_refused(given: object, words: str) -> None:
    with pytest.raises(BonsaiError, match="round_to") as caught:
        RunConfig.from_mapping({"round_to": given}, "settings")
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, pico_directory: Path) -> Path:
    """A pico model whose MLPs are 512 wide."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    pico = Pico("llama", 2)
    config = pico.config
    config.intermediate_size = 512
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(pico_directory).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("hardware", "multiple"), [("cpu", 16), ("gpu", 32)])
def test_a_run_ends_with_such_widths_and_a_resume_repeats_them(
    small_run: RunConfig, registry: Registry, wide: Path, tmp_path: Path, hardware: str, multiple: int
) -> None:
    changes = {"model": str(wide), "round_to": hardware, "out": tmp_path / "run", "latency": False}
    result = run(small_run.model_copy(update=changes), registry=registry)
    widths = np.array([layer["mlp"]["kept"] for layer in result.report["layers"]])
    assert (widths % multiple == 0).all()
    assert (widths < 512).any()
    assert result.report["sparsity"]["decoder"] == pytest.approx(small_run.sparsity, abs=0.05)
    assert RunDirectory(result.directory).config().round_to == hardware
    (result.directory / "report.json").unlink()
    again = resume(result.directory, registry=registry)
    assert again.report["layers"] == result.report["layers"]


def test_an_auto_run_stores_what_it_was(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    changes = {"round_to": "auto", "device": "cpu", "out": tmp_path / "run", "latency": False}
    result = run(small_run.model_copy(update=changes), registry=registry)
    assert RunDirectory(result.directory).config().round_to == "cpu"
    assert {layer["mlp"]["kept"] % 2 for layer in result.report["layers"]} == {0}


def test_the_rules_say_what_multiples_they_are(small_run: RunConfig, registry: Registry, wide: Path) -> None:
    job = open_job(small_run.model_copy(update={"model": str(wide), "round_to": "gpu"}), registry, print)
    assert "--round-to gpu (mlp=32)" in job.rules.describe()
