"""What `.ci/run` made of the demo model: a run, its adaptation, and an evaluation of both.

`BONSAI_RUN` names the run directory, `BONSAI_EVALUATION` the file with what `bonsai eval --json` printed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

RUN = Path(os.environ["BONSAI_RUN"])
EVALUATION = Path(os.environ["BONSAI_EVALUATION"])


def test_the_checkpoint_is_what_the_report_says() -> None:
    report = json.loads((RUN / "report.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(RUN / "model", trust_remote_code=True)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    assert num_params == report["parameters"]["pruned"] < report["parameters"]["dense"]
    assert report["sparsity"]["decoder"] >= 0.1
    assert 1 < report["perplexity"]["pruned"] / report["perplexity"]["dense"] < 2


def test_the_checkpoint_goes_on_with_a_text() -> None:
    model = AutoModelForCausalLM.from_pretrained(RUN / "model", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(RUN / "model", trust_remote_code=True)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    tokens = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert tokens.shape[1] == prompt["input_ids"].shape[1] + 8


def test_adapting_lowers_perplexity_at_the_same_size() -> None:
    dense, pruned, adapted = json.loads(EVALUATION.read_text(encoding="utf-8"))["models"]
    assert dense["dense"]
    assert dense["perplexity"] < pruned["perplexity"]
    assert adapted["perplexity"] < pruned["perplexity"]
    assert adapted["parameters"] == pruned["parameters"] < dense["parameters"]
