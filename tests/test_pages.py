"""Report pages: complete, self-contained, deterministic, honest, and safe whatever a report holds."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Listener
from scipy.stats import kendalltau

from bonsai_core import AdaptConfig, BonsaiError, Registry, RunConfig, hookimpl, resume, run
from bonsai_core.cli.commands.prune import run as run_command
from bonsai_core.cli.main import cli
from bonsai_core.cli.settings import settings
from bonsai_core.engine.page import page_of
from bonsai_core.events import Event, RunFinished, Warned
from bonsai_core.pages import figures
from bonsai_core.pages.adaptation import adapt_page
from bonsai_core.pages.adaptation import judge as judge_adaptation
from bonsai_core.pages.render import unbroken
from bonsai_core.pages.settings import command_of
from bonsai_core.pages.verdict import judge
from bonsai_core.pages.words import percent
from bonsai_core.rundir import RunDirectory

HOSTILE = "<script>alert(1)</script>\x1b]0;x\x07\u202e\"'{{ 7 * 7 }}"
VOID = {"meta", "br"}


class Outline(HTMLParser):
    """What is in a page: its headings and tags; every tag that opens must close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def finished(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its page."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    config = small_run.model_copy(
        update={"out": out, "page": True, "latency": True, "eval_rounds": True, "submodels": 8}
    )
    return run(config, registry=registry).directory


@pytest.fixture
def directory(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def report_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return found


def shown(*words: object) -> str:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(cli, list(map(str, words)))
    if done.exception:
        raise done.exception
    return done.stdout


def page_with(directory: Path, report: Mapping[str, Any]) -> str:
    """The page of a run whose report is another."""
    (directory / "report.json").write_text(json.dumps(report))
    shown("report", directory, "--html")
    return (directory / "report.html").read_text(encoding="utf-8")


def test_a_run_ends_with_a_page_that_has_every_part(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.headings[1:] == [
        "Quality, round by round", "What was removed", "How it was decided", "Where the time went", "Load it",
        "Settings", "Where it comes from",
    ]  # fmt: skip
    for row in report_of(finished)["rounds"]:
        assert f"<td>{row['divergence']['guard']:.3f}</td>" in page
    assert f"<td>{report_of(finished)['rounds'][0]['perplexity']:,.2f}</td>" in page
    assert "from_pretrained" in page
    assert f"page{finished}/report.html" in "".join(shown("report", finished).split())


def test_a_page_needs_nothing_but_itself(finished: Path) -> None:
    outline = Outline((finished / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in outline.tags}
    links = [value for _, attrs in outline.tags for name, value in attrs.items() if name.endswith(("href", "src"))]
    assert all(link and link.startswith("#") for link in links)


def test_a_page_reads_well_aloud(finished: Path) -> None:
    outline = Outline((finished / "report.html").read_text(encoding="utf-8"))
    roles = [attrs for _, attrs in outline.tags if "role" in attrs]
    assert roles
    assert all(attrs.get("aria-label") for attrs in roles)
    assert all("scope" in attrs for tag, attrs in outline.tags if tag == "th")
    assert [tag for tag, _ in outline.tags].count("h1") == 1
    assert ("html", {"lang": "en"}) in outline.tags


def test_a_sentence_is_escaped_and_its_options_do_not_break() -> None:
    text = unbroken("<b> --submodels, --format.llama-cpp x, a--b, --Not & 1--2")
    assert re.findall(r'<span class="unbroken">(.*?)</span>', text) == ["--submodels", "--format.llama-cpp"]
    assert re.sub("</?span[^>]*>", "", text) == "&lt;b&gt; --submodels, --format.llama-cpp x, a--b, --Not &amp; 1--2"


def test_the_options_that_a_page_advises_do_not_break(directory: Path) -> None:
    report = report_of(directory)
    report["perplexity"]["pruned"] = 100 * report["perplexity"]["dense"]
    page = page_with(directory, report)
    assert re.search(r'<p class="caution">[^<]*<span class="unbroken">--', page)
    assert "&lt;span" not in page


def test_the_heat_map_goes_up_to_the_largest_share_removed(directory: Path) -> None:
    page = page_with(directory, report_of(directory))
    layers = report_of(directory)["layers"]
    largest = max(1 - units["kept"] / units["dense"] for layer in layers for units in layer.values())
    assert f'<div class="key">removed: 0 % <span></span> {percent(largest)}</div>' in page
    assert max(map(int, re.findall(r'style="--gone: (\d+)"', page))) == 100
    whole = report_of(directory)
    whole["layers"] = [{kind: {"kept": 4, "dense": 4} for kind in layer} for layer in layers]
    page = page_with(directory, whole)
    assert {*re.findall(r'style="--gone: (\d+)"', page)} == {"0"}
    assert 'class="key"' not in page


def test_legends_name_several_lines_and_stand_outside_the_data() -> None:
    several = [{"sparsity": 0.1, "divergence": {"measured": 0.1, "guard": 0.3}}]
    figure = figures.divergence(several)
    (axes,) = figure.axes
    (legend,) = [found for found in [axes.get_legend()] if found is not None]
    assert [text.get_text() for text in legend.get_texts()] == ["text measured on", "guard, other text"]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
    assert legend.get_window_extent().y1 <= figure.bbox.y1
    (axes,) = figures.divergence([{"sparsity": 0.1, "divergence": {"guard": 0.3}}]).axes
    assert axes.get_legend() is None
    assert axes.get_ylabel() == "KL, guard, other text, nats per token"


def test_a_page_says_why_it_knows_no_runtimes(directory: Path) -> None:
    (directory / "model" / "config.json").unlink()
    page = page_with(directory, report_of(directory))
    outline = Outline(page)
    assert "Load it" in outline.headings
    assert "could not be found out when this page was written" in page
    assert "there is no config.json in it" in page


def test_code_of_a_model_runs_for_its_page_only_if_it_may(
    directory: Path, pico_directory: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = directory / "model"
    shutil.rmtree(model)
    shutil.copytree(pico_directory, model)
    for part, base in (("Config", "LlamaConfig"), ("ForCausalLM", "LlamaForCausalLM")):
        code = f"from transformers import {base}\n\n\nclass Mine{part}({base}):\n    model_type = 'mine'\n"
        (model / f"mine_{part.lower()}.py").write_text(code)
    with (model / "mine_forcausallm.py").open("a") as file:
        file.write("\n\nfrom .mine_config import MineConfig\nMineForCausalLM.config_class = MineConfig\n")
    config = json.loads((model / "config.json").read_text())
    auto_map = {"AutoConfig": "mine_config.MineConfig", "AutoModelForCausalLM": "mine_forcausallm.MineForCausalLM"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": auto_map}))
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    pages = [
        page_of(RunDirectory(directory), report_of(directory), registry, trust_remote_code=trust)
        for trust in (False, True)
    ]
    assert ["from_pretrained" in page for page in pages] == [False, True]
    assert "runs only with" in pages[0]


def test_the_same_run_has_the_same_page(directory: Path, registry: Registry) -> None:
    shown("report", directory, "--html")
    expected = (directory / "report.html").read_bytes()
    (directory / "report.html").unlink()
    resume(directory, registry=registry)
    assert (directory / "report.html").read_bytes() == expected


def test_the_predictions_drawn_are_those_of_kendalls_tau(finished: Path) -> None:
    for number, row in enumerate(report_of(finished)["rounds"], 1):
        with np.load(RunDirectory(finished).array_path(number, "selection")) as arrays:
            predicted_M, utility_M = arrays["predicted_M"], arrays["utility_M"]
        assert len(predicted_M) == row["submodels"]
        assert kendalltau(predicted_M, utility_M).statistic == pytest.approx(row["kendall_tau"])
        assert f"{utility_M[0]:.6g}" in (finished / "report.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_costs_nothing_but_a_warning(small_run: RunConfig, tmp_path: Path) -> None:
    class InTheWay:
        @hookimpl
        def bonsai_observe(self, event: Event) -> None:
            if isinstance(event, RunFinished):
                (event.directory / "report.html").mkdir()

    registry, listener = Registry(), Listener()
    registry.register(InTheWay(), "in the way")
    registry.register(listener, "the listener")
    result = run(small_run.model_copy(update={"out": tmp_path / "run", "page": True}), registry=registry)
    assert result.report == report_of(tmp_path / "run")
    (warning,) = [e.text for e in listener.events if isinstance(e, Warned) and "report.html" in e.text]
    assert f"bonsai report {tmp_path / 'run'} --html" in warning


# The verdict


@pytest.mark.parametrize(
    ("times", "grade"),
    [(0.9, "good"), (1.05, "good"), (1.06, "good"), (1.25, "good"), (1.26, "fair"), (2.0, "fair"), (2.01, "poor")],
)
def test_the_grade_follows_the_perplexity(finished: Path, times: float, grade: str) -> None:
    report = report_of(finished)
    report["perplexity"] |= {"dense": 10.0, "pruned": 10.0 * times}
    verdict = judge(report)
    assert verdict.grade == grade
    assert f"to {10 * times:.2f}" in " ".join(verdict.summary)
    assert any("Train it to recover" in caution for caution in verdict.cautions) == (grade == "poor")


def test_a_perplexity_that_is_not_finite_is_called_broken(finished: Path) -> None:
    report = report_of(finished)
    report["perplexity"]["pruned"] = None
    verdict = judge(report)
    assert verdict.grade == "broken"
    assert any("cannot be used" in caution for caution in verdict.cautions)


def slower(report: Any) -> None:
    phase = {"dense_s": 1.0, "pruned_s": 2.0, "speedup": {"median": 0.5, "low": 0.4, "high": 0.6}}
    report["latency"] |= {"phases": {"prefill": phase, "decode": phase}}


def narrow(report: Any) -> None:
    report["rounds"][-1]["divergence"] = {"held_out": 0.01, "guard": 5.0}


def guessing(report: Any) -> None:
    for row in report["rounds"]:
        row["kendall_tau"] = 0.1


def missed(report: Any) -> None:
    amounts = {"dense": 100, "target": 50, "predicted": 50, "measured": 60}
    report["budget"] = {"of": "target_params", "option": "--target-params 50", **amounts}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (slower, "slower than the dense one"),
        (narrow, "calibration text is narrow"),
        (guessing, "hardly predicts"),
        (missed, "budget was missed: 50 were wanted, 60 measured"),
        (lambda report: report.update(verified={"skipped": "no memory"}), "not opened again to verify it: no memory"),
        (lambda report: report["rounds"][0].update(dropped_submodels=9), "gave no finite value"),
    ],
)
def test_what_the_reader_should_know_is_said(finished: Path, change: Callable[[Any], object], words: str) -> None:
    report = report_of(finished)
    report["latency"]["phases"] = None
    for row in report["rounds"]:
        row.update(kendall_tau=0.9, divergence={})
    assert not any(words in caution for caution in judge(report).cautions)
    change(report)
    assert any(words in caution for caution in judge(report).cautions)


def test_an_adaptation_that_followed_decides_the_grade(finished: Path) -> None:
    report = report_of(finished)
    report["perplexity"] |= {"dense": 10.0, "pruned": 30.0}
    adapted = {
        "perplexity": {"teacher": 11.0, "before": 33.0, "after": 12.1},
        "tokens": 1000,
        "seconds": {},
        "verified": {"loss": 1.0, "loaded": {}},
    }
    verdict = judge(report, adapted)
    assert verdict.grade == "good"
    assert any("from 33.00 to 12.10" in sentence for sentence in verdict.summary)


# Adaptations

ADAPTED: dict[str, Any] = {
    "config": {"model": "runs/a b", "steps": 40, "learning_rate": 0.001, "method": "full"},
    "teacher": "parent",
    "text": {"name": "text.txt"},
    "evaluation": {"name": "evaluation.txt", "windows": 2, "sequence_length": 64},
    "perplexity": {"teacher": 10.0, "before": 30.0, "after": 12.0},
    "curve": [{"step": n, "tokens": 100 * n, "perplexity": 30.0 - 4.5 * n} for n in range(5)],
    "losses": [{"step": n, "loss": 3.0 - n / 40, "lm": 2.0, "kl": 1.0, "hidden": 0.0} for n in range(1, 41)],
    "steps": 40,
    "tokens": 400,
    "epochs": 1.0,
    "parameters": {"all": 1000, "trained": 100},
    "verified": {"loss": 1.0, "loaded": {}},
    "memory": {"peak_bytes": 10**8},
    "seconds": {"train": 5.0},
}


@pytest.mark.parametrize(
    ("perplexity", "grade", "caution"),
    [
        ({"teacher": 10.0, "before": 30.0, "after": 12.0}, "good", False),
        ({"teacher": 10.0, "before": 30.0, "after": 25.0}, "poor", False),
        ({"teacher": 10.0, "before": 15.0, "after": 16.0}, "fair", True),
        ({"teacher": None, "before": 15.0, "after": 14.0}, "good", False),
        ({"teacher": None, "before": 15.0, "after": 16.0}, "poor", True),
        ({"teacher": 10.0, "before": 15.0, "after": None}, "broken", True),
        ({"teacher": 10.0, "before": None, "after": 12.0}, "good", False),
    ],
)
def test_an_adaptation_is_graded_by_what_it_won_back(
    perplexity: dict[str, float | None], grade: str, caution: bool
) -> None:
    verdict = judge_adaptation({**ADAPTED, "perplexity": perplexity})
    assert (verdict.grade, bool(verdict.cautions)) == (grade, caution)


def test_an_adaptation_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "adapt.yaml").touch()
    for report in (ADAPTED, everywhere(ADAPTED), {**ADAPTED, "curve": [], "config": None, "text": 3}):
        (tmp_path / "report.json").write_text(json.dumps(report))
        shown("report", tmp_path, "--html")
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "How it went" in Outline(page).headings
        assert "<script" not in page
    page = adapt_page(tmp_path, ADAPTED, [], AdaptConfig)
    assert "bonsai adapt &#39;runs/a b&#39; --method full --steps 40 --learning-rate 0.001" in page


# Settings and the command that repeats a run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "a folder/of 'mine'", "sparsity": 0.35, "protect": (0, -1), "latency": False, "eval_rounds": True},
        {"units": ("mlp", "layer"), "min_units": {"mlp": 8, "layer": 1}, "round_to": 16, "sparsity": None,
         "target_params": "0.5x"},
        {"prior": {"name": "wanda"}, "estimator": {"name": "ridge", "folds": 3}, "dataset": "c4:0.7,mine.jsonl:0.3"},
        {"runtimes": ("vllm", "llama.cpp:q8_0"), "seed": 7, "dtype": "float32", "max_fraction": {"attention": 0.5}},
    ],
)  # fmt: skip
def test_the_command_on_the_page_gives_the_same_settings(changes: dict[str, Any]) -> None:
    config = RunConfig.model_validate(changes)
    command = command_of(config.decisive(), RunConfig, "bonsai", "run")
    words = shlex.split(command)[2:]
    with run_command.make_context("run", words) as context:
        given = {
            name: value for name, value in context.params.items() if name in RunConfig.model_fields or "__" in name
        }
    assert settings(given, None).decisive() == config.decisive()


# What a report may lack, and what it may hold


def test_a_run_of_an_earlier_version_shows_what_it_has(directory: Path) -> None:
    report = report_of(directory)
    for name in ("calibration", "guard", "measured_on", "versions", "budget", "forward_tokens"):
        del report[name]
    report["config"] = {"model": "m", "eval_rounds": False}
    report["latency"] = {"dense_s": 2.0, "pruned_s": 1.0, "tokens": 512}
    for row in report["rounds"]:
        for name in ("divergence", "details", "repaired_submodels", "perplexity"):
            row.pop(name, None)
    shutil.rmtree(directory / "round-001")
    (directory / "round-002" / "selection.npz").write_bytes(b"PK\x03\x04 not an archive")
    page = page_with(directory, report)
    assert "x 2.00" in page
    assert "How it was decided" not in Outline(page).headings


def everywhere(value: Any) -> Any:
    """The same with every text and every name hostile that may be."""
    if isinstance(value, dict):
        return {key: everywhere(item) for key, item in value.items()}
    if isinstance(value, list):
        return [everywhere(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_whatever_a_report_holds_stays_text(directory: Path) -> None:
    report = everywhere(report_of(directory))
    report["seconds"][HOSTILE] = 5.0
    report["layers"][0][HOSTILE] = {"kept": 1, "dense": 2}
    report["config"][HOSTILE] = {"name": HOSTILE, HOSTILE: [HOSTILE]}
    page = page_with(directory, report)
    assert "<script" not in page
    assert not set("\x1b\x07\u202e") & set(page)
    assert "{{ 7 * 7 }}" in page
    Outline(page)


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report.update(layers=[]),
        lambda report: report.update(rounds=[]),
        lambda report: report.update(layers=[{"mlp": {"kept": 0, "dense": 0}}] * 2000),
        lambda report: report.update(rounds=report["rounds"] * 500),
        lambda report: report.update(seconds={str(n): float(n) for n in range(2000)}),
        lambda report: report.update(seconds={}),
        lambda report: report["parameters"].update(dense=0),
        lambda report: report["perplexity"].update(dense=None, pruned=None),
        lambda report: report["config"].update(prior=["x" * 10_000] * 100),
        lambda report: report.update(versions="new", forward_tokens="many"),
    ],
)
def test_a_strange_report_has_a_page_of_bounded_size(directory: Path, change: Callable[[Any], object]) -> None:
    report = report_of(directory)
    change(report)
    assert len(page_with(directory, report).encode()) < 500_000


def test_a_page_of_a_large_model_and_many_rounds_is_small(directory: Path) -> None:
    report, rng = report_of(directory), np.random.default_rng(0)
    kinds = {"attention": {"kept": 6, "dense": 8}, "mlp": {"kept": 2_000, "dense": 4_096}}
    report["layers"] = [kinds] * 80
    report["rounds"] = [{**report["rounds"][0], "sparsity": n / 60} for n in range(1, 31)]
    units, submodels = 80 * (8 + 4_096), 5000
    for number in (1, 30):
        prior, selection = (RunDirectory(directory).array_path(number, name) for name in ("prior", "selection"))
        prior.parent.mkdir(exist_ok=True)
        np.savez(prior, prior_U=rng.random(units))
        predicted_M, utility_M = rng.random((2, submodels))
        np.savez(selection, importance_U=rng.random(units), predicted_M=predicted_M, utility_M=utility_M)
    page = page_with(directory, report)
    assert len(page.encode()) < 500_000
    assert "400 of 5,000 are shown" in page


# Several runs, and the command


def test_several_runs_are_compared(finished: Path, directory: Path, tmp_path: Path) -> None:
    report = report_of(directory)
    report["perplexity"] |= {"pruned": 3 * report["perplexity"]["dense"], "windows": 99}
    (directory / "report.json").write_text(json.dumps(report))
    said = shown("report", finished, directory)
    assert "x 3.00" in said
    assert max(map(len, said.splitlines())) <= 80
    assert shown("report", finished, directory, "--html", "--out", tmp_path / "both.html").split()[0] == "page"
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "finished lost the least" in page
    assert "different texts or windows" in page
    Outline(page)
    assert json.loads(shown("report", finished, directory, "--json")) == [report_of(finished), report]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.html"], "give --html too"),
        (["--html", "--json"], "not both"),
        (["--html", "--out", "{tmp}/file/page.html"], "Cannot write"),
        (["--html", "--out", "{tmp}/report.json"], "must end in .html"),
        (["--html", "--out", "{tmp}/pipe.html"], "is not a file"),
    ],
)
def test_what_cannot_be_is_refused(finished: Path, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(BonsaiError, match=message):
        shown("report", finished, *(word.format(tmp=tmp_path) for word in words))


def test_an_adaptation_is_not_compared_with_runs(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "adapt.yaml").touch()
    with pytest.raises(BonsaiError, match="is an adaptation"):
        shown("report", finished, tmp_path)
