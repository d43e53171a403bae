"""What a run says of the text it calibrates on."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import Listener, Pico, saved
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, RunConfig, dry_run, run
from bonsai_core.cli.tables import report_view
from bonsai_core.events import Warned
from bonsai_core.rundir.calibration_text import describe_repetition, describe_text
from bonsai_core.rundir.report_schema import RUN_REPORT

RNG = random.Random(0)
NAMES, GOODS = ("Anna", "Ben", "Clara", "David", "Eva"), ("pens", "books", "lamps", "cups", "chairs")
DAYS = range(900)
SENTENCES = [f"On day {n}, {RNG.choice(NAMES)} bought {RNG.randint(1, 99)} {RNG.choice(GOODS)} there." for n in DAYS]
RECORDS = [json.dumps({"id": n, "name": RNG.choice(NAMES), "price": n, "stock": RNG.randint(0, 99)}) for n in DAYS]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A pico model whose tokenizer renders chats."""
    directory = saved(Pico("llama", 2), tokenizer, tmp_path_factory.mktemp("models") / "chatting")
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the texts sentences.txt, records.txt, short.txt and chat.jsonl."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentences.txt").write_text("\n\n".join(SENTENCES), encoding="utf-8")
    (tmp_path / "records.txt").write_text("\n\n".join(RECORDS), encoding="utf-8")
    (tmp_path / "short.txt").write_text("\n\n".join(SENTENCES[:30]), encoding="utf-8")
    chats = [{"messages": [{"role": "user", "content": f"{words} Why?"}]} for words in SENTENCES[:300]]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    return tmp_path


def shown(report: dict[str, Any]) -> str:
    console = Console(width=400, file=io.StringIO(), record=True)
    console.print(report_view(report, Path("somewhere")))
    return console.export_text()


def test_the_report_says_what_the_text_was(folder: Path, small_run: RunConfig, chatting: Path) -> None:
    changes: dict[str, Any] = {"dataset": "builtin:0.75,chat.jsonl:0.25", "eval_dataset": None, "guard_dataset": "none"}
    changes |= {"model": str(chatting), "prior_samples": 54, "held_out_samples": 4, "latency": False}
    config = small_run.model_copy(update={**changes, "out": folder / "run"})
    report = dict(run(config).report)
    text = report["calibration"]
    assert [(Path(part["name"]).name, part["share"]) for part in text["parts"]] == [
        ("builtin", 0.75),
        ("chat.jsonl", 0.25),
    ]
    assert (text["windows"], text["windows_wanted"], text["sequence_length"]) == (60, 60, 32)
    assert text["kinds"] == ["text", "chat"]
    RUN_REPORT.model_validate(report)
    line = shown(report)
    assert "chat.jsonl 25% (chats): 60 windows of 32 tokens, out of" in line
    assert "calibrated on builtin 75%" in line
    assert "repeats itself" not in line
    report["calibration"] = {**text, "windows": 12, "compressed_bytes_per_character": 0.1}
    assert "The calibration text repeats itself" in shown(report)
    assert "12 of the 60 windows asked for, each of 32 tokens" in shown(report)


def test_reports_of_earlier_versions_say_nothing_of_it() -> None:
    for calibration in (None, {"name": "builtin", "characters": 9}):
        assert describe_text(calibration) is None
        assert describe_repetition(calibration) is None


@pytest.mark.parametrize(
    ("dataset", "repeats"),
    [
        ("builtin", False),
        ("builtin-code", False),
        ("builtin:0.5,sentences.txt:0.5", False),
        ("sentences.txt", True),
        ("records.txt", True),
    ],
)
def test_a_text_that_repeats_itself_is_warned_of(
    folder: Path, small_run: RunConfig, dataset: str, repeats: bool
) -> None:
    changes = {"dataset": dataset, "eval_dataset": None, "guard_dataset": "none", "sequence_length": 128}
    registry, listener = Registry(), Listener()
    with registry.observed_by(listener, "the test"):
        dry_run(small_run.model_copy(update=changes), registry=registry)
    warnings = [event.text for event in listener.events if isinstance(event, Warned)]
    assert any("repeats itself" in warning for warning in warnings) == repeats
