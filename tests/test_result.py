"""Results in Python: what they say of themselves, side by side, in notebooks, and opened again."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bonsai_core import AdaptConfig, AdaptResult, BonsaiError, Registry, RunConfig, RunResult, adapt, run
from bonsai_core.pages.verdict import judge

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e" + "x" * 10_000


@pytest.fixture(scope="module")
def results(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> list[RunResult]:
    """Two runs, the first timed and adapted."""
    folder = tmp_path_factory.mktemp("runs")
    settings = ({"out": folder / "first", "latency": True}, {"out": folder / "second", "sparsity": 0.2})
    first, second = (run(small_run.model_copy(update=each), registry=registry) for each in settings)
    config = AdaptConfig(
        model=str(first.directory),
        out=first.directory / "adapted",
        steps=2,
        batch_size=4,
        sequence_length=32,
        eval_samples=2,
        eval_sequence_length=64,
        device="cpu",
    )
    return [replace(first, adapted=adapt(config, registry=registry)), second]


def test_a_summary_has_the_verdict_and_the_main_numbers(results: list[RunResult]) -> None:
    first, second = results
    assert first.adapted is not None
    for result, adapted in ((first, first.adapted.report), (second, None)):
        text, verdict = result.summary(), judge(result.report, adapted)
        said = " ".join(text.split())
        assert said.startswith(f"{verdict.title}: {verdict.words}")
        assert all(sentence in said for sentence in (*verdict.summary, *verdict.cautions))
        for model in ("dense", "pruned"):
            assert f"{result.report['perplexity'][model]:,.2f}" in text
        assert max(map(len, text.splitlines())) <= 80
    assert "after adaptation" in first.summary()
    assert "decode speed" in first.summary()
    assert "decode speed" not in second.summary()


def test_an_adaptation_has_a_summary_too(results: list[RunResult]) -> None:
    adapted = results[0].adapted
    assert adapted is not None
    for when in ("before", "after"):
        assert f"{adapted.report['perplexity'][when]:,.2f}" in adapted.summary()
        assert f"{adapted.report['perplexity'][when]:,.2f}" in adapted._repr_html_()


def test_finished_results_are_opened_again(results: list[RunResult]) -> None:
    first, second = results
    assert first.adapted is not None
    assert RunResult.open(first.directory) == first
    assert RunResult.open(str(second.directory)) == second
    assert AdaptResult.open(first.adapted.directory) == first.adapted


def test_what_cannot_be_opened_says_why(results: list[RunResult], tmp_path: Path) -> None:
    opened: Mapping[str, Callable[[Path], object]] = {"config.yaml": RunResult.open, "adapt.yaml": AdaptResult.open}
    for name, open_ in opened.items():
        with pytest.raises(BonsaiError, match="holds no run"):
            open_(tmp_path / "nothing")
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        shutil.copy(
            (results[0].directory if name == "config.yaml" else results[0].directory / "adapted") / name, folder
        )
        with pytest.raises(BonsaiError, match=f"is not finished.*bonsai watch {folder}; .*bonsai resume {folder}"):
            open_(folder)
        (folder / "report.json").write_text("{")
        with pytest.raises(BonsaiError, match="is damaged"):
            open_(folder)


def test_runs_side_by_side(results: list[RunResult]) -> None:
    first, second = results
    compared = first.compare(second)
    rows = {line.split("  ")[0]: line.split() for line in str(compared).splitlines() if line}
    assert rows["run"] == ["run", "first", "second"]
    assert rows["removed"][1::2] == [f"{each.report['sparsity']['decoder']:.1%}".rstrip("%") for each in results]
    assert {"parameters", "weights", "over the dense", "decode speed", "peak memory"} <= set(rows)
    assert rows["decode speed"][-1] == "-"  # the second was not timed
    assert "adapted" in rows["over the dense"]
    assert repr(compared) == str(compared)
    assert "Note" not in str(compared)


def test_what_cannot_be_compared_is_said(results: list[RunResult]) -> None:
    first, second = results
    report = copy.deepcopy(dict(second.report))
    report["perplexity"]["windows"] += 1
    assert "different texts or windows" in " ".join(str(first.compare(replace(second, report=report))).split())
    adapted = first.adapted
    assert adapted is not None
    other = copy.deepcopy(dict(adapted.report))
    assert "Note" not in str(adapted.compare(AdaptResult(Path("other"), other)))
    other["evaluation"]["windows"] += 1
    assert "different texts or windows" in str(adapted.compare(AdaptResult(Path("other"), other)))


def test_adaptations_side_by_side(results: list[RunResult]) -> None:
    adapted = results[0].adapted
    assert adapted is not None
    report = {**adapted.report, "perplexity": {"teacher": None, "before": None, "after": 12.5}}
    text = str(adapted.compare(AdaptResult(Path("other"), report)))
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}
    assert rows["perplexity after"][-2:] == [f"{adapted.report['perplexity']['after']:,.2f}", "12.50"]
    assert rows["perplexity before"][-2:] == ["not", "finite"]
    assert rows["perplexity of the dense model"][-1] == "-"


class _Html(HTMLParser):
    """What tags there are, that all are closed, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_notebooks_show_a_small_table(results: list[RunResult]) -> None:
    first, second = results
    for html in (first._repr_html_(), second._repr_html_(), first.compare(second)._repr_html_()):
        shown = _Html(html)
        assert shown.tags <= {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
        assert len(html) < 10_000
        assert f"{first.report['perplexity']['dense']:,.2f}" in shown.text


def test_names_from_files_neither_steer_nor_are_markup(results: list[RunResult]) -> None:
    report = copy.deepcopy(dict(results[1].report))
    report["config"]["model"] = HOSTILE
    report["perplexity"]["text"]["name"] = HOSTILE
    hostile = replace(results[1], report=report, directory=Path(HOSTILE))
    compared = results[0].compare(hostile)
    for text in (hostile.summary(), str(compared), hostile._repr_html_(), compared._repr_html_()):
        assert not {"\x1b", "\u202e"} & set(text)
        assert "script" in text
    for html in (hostile._repr_html_(), compared._repr_html_()):
        assert "script" not in _Html(html).tags
