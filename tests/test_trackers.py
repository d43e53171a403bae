"""What trackers receive of a run, and that they cannot harm it; each real one where its package is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import bonsai_plugins.trackers
import pytest
from conftest import StoppedError, Stopper, optional
from pydantic import Field

from bonsai_core import (
    AdaptConfig,
    BonsaiError,
    Registry,
    RunConfig,
    TrackedRun,
    Tracker,
    adapt,
    hookimpl,
    resume,
    run,
)
from bonsai_core.cli import settings as cli_settings
from bonsai_core.cli.commands.prune import adapt as adapt_command
from bonsai_core.cli.commands.prune import run as run_command
from bonsai_core.config import PluginChoice
from bonsai_core.events import RoundFinished, SubmodelMeasured, Warned

LEFT = ("config", "dry_run")
Point = tuple[str, dict[str, float], int]


class Paper(Tracker):
    """Writes down what it gets."""

    name: ClassVar[str] = "paper"
    package: ClassVar[str] = "json"
    requirement: ClassVar[str] = "json"
    pages: ClassVar[list[Page]] = []
    breaks: str = Field("", description="What raises.")

    def open(self, name: str, directory: Path, settings: Mapping[str, Any]) -> TrackedRun:
        if self.breaks == "open":
            raise ConnectionError("no such host")
        page = Page(name, directory, dict(settings), self.breaks)
        self.pages.append(page)
        return page


class Page(TrackedRun):
    def __init__(self, name: str, directory: Path, settings: dict[str, Any], breaks: str) -> None:
        self.name, self.directory, self.settings, self.breaks = name, directory, settings, breaks
        self.points: list[Point] = []
        self.summary: dict[str, float] | None = None

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self.breaks == "log":
            raise ValueError("too many points")
        self.points.append((group, dict(values), step))

    def close(self, summary: Mapping[str, float]) -> None:
        assert self.summary is None, "it is closed once"
        if self.breaks == "close":
            raise OSError("disk full")
        self.summary = dict(summary)

    def steps(self, group: str) -> list[int]:
        return [step for each, _, step in self.points if each == group]


class _Plugin:
    @hookimpl
    def bonsai_trackers(self) -> list[type[Tracker]]:
        return [Paper]


class _Warnings:
    def __init__(self) -> None:
        self.texts: list[str] = []

    @hookimpl
    def bonsai_observe(self, event: Any) -> None:
        if isinstance(event, Warned):
            self.texts.append(event.text)


@pytest.fixture(scope="module")
def finished(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a tracker."""
    return run(configured(small_run, tmp_path_factory.mktemp("runs") / "finished", None)).directory


@pytest.fixture
def pages() -> list[Page]:
    Paper.pages.clear()
    return Paper.pages


@pytest.fixture
def plugins(registry: Registry) -> Registry:
    """All installed plugins and the one above; the built-in ones too where their entry point is not installed yet."""
    own = Registry()
    own.register(_Plugin(), "the paper")
    if not registry.offers("tracker"):
        own.register(bonsai_plugins.trackers, "the built-in trackers")
    return own


def configured(small_run: RunConfig, out: Path, tracker: Any) -> RunConfig:
    return RunConfig.model_validate({**small_run.model_dump(), "out": out, "latency": False, "tracker": tracker})


def test_a_run_is_recorded_from_its_settings_to_its_report(
    small_run: RunConfig, plugins: Registry, pages: list[Page], tmp_path: Path
) -> None:
    config = configured(small_run, tmp_path / "run", "paper")
    report = run(config, registry=plugins).report
    (page,) = pages
    assert (page.name, page.directory) == ("run", tmp_path / "run")
    assert page.settings["sparsity"] == 0.3
    assert page.settings["units"] == "attention,mlp,experts"
    assert not {"tracker", "out", "push_to_hub"} & page.settings.keys()
    assert page.settings["model"] == Path(small_run.model).name, "trackers may be public: they get no folders"
    assert not [value for value in page.settings.values() if "/" in str(value)]
    assert page.steps("round") == [1, 2]
    assert page.steps("submodel") == list(range(2 * small_run.submodels))
    last = [values for group, values, _ in page.points if group == "round"][-1]
    assert last["sparsity"] == report["rounds"][-1]["sparsity"]
    assert last["held_out_kl"] == report["rounds"][-1]["divergence"]["held_out"]
    assert page.summary is not None
    assert page.summary["perplexity.pruned"] == report["perplexity"]["pruned"]
    assert page.summary["parameters.pruned"] == report["parameters"]["pruned"]


def test_it_changes_no_result(small_run: RunConfig, plugins: Registry, pages: list[Page], tmp_path: Path) -> None:
    results = [
        run(configured(small_run, tmp_path / name, tracker), registry=plugins)
        for name, tracker in (("with", "paper"), ("without", None))
    ]
    files = [{file.name: file.read_bytes() for file in result.model_path.iterdir()} for result in results]
    assert files[0] == files[1]
    assert results[0].report["config"] == results[1].report["config"]


def test_an_adaptation_of_a_run_is_recorded_beside_it(
    small_run: RunConfig, plugins: Registry, pages: list[Page], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = {"steps": 2, "batch_size": 1, "sequence_length": 16, "evaluations": 1, "teacher": "none"}
    recipe.write_text(json.dumps(settings), encoding="utf-8")
    config = configured(small_run, tmp_path / "run", "paper").model_copy(update={"adapt": str(recipe)})
    result = run(config, registry=plugins)
    assert [page.name for page in pages] == ["run", "run-adapted"]
    assert result.adapted is not None
    adapted = pages[1]
    assert adapted.steps("train") == [1, 2]
    assert adapted.steps("curve")[-1] == 2
    assert adapted.summary is not None
    assert adapted.summary["perplexity.after"] == result.adapted.report["perplexity"]["after"]


def test_a_run_that_stops_is_closed_and_goes_on_with_what_is_new(
    small_run: RunConfig, plugins: Registry, pages: list[Page], tmp_path: Path
) -> None:
    stopper = Stopper(lambda event: isinstance(event, RoundFinished))
    with plugins.observed_by(stopper, "the stopper"), pytest.raises(StoppedError):
        run(configured(small_run, tmp_path / "run", "paper"), registry=plugins)
    assert pages[0].summary == {}
    resume(tmp_path / "run", registry=plugins, tracker="paper")
    assert pages[1].directory == pages[0].directory
    assert pages[1].steps("submodel") == list(range(small_run.submodels, 2 * small_run.submodels))
    assert pages[1].summary


class TestResumed:
    """A run directory alone does not decide where values are sent."""

    @pytest.fixture
    def stranger(self, finished: Path, tmp_path: Path) -> Path:
        """A run that somebody else has given a tracker with an address."""
        directory = Path(shutil.copytree(finished, tmp_path / "run"))
        config = directory / "config.yaml"
        text, tracker = config.read_text(encoding="utf-8"), "{name: paper, breaks: 'https://ann:hunter2@example.org/x'}"
        assert "tracker: null\n" in text
        config.write_text(text.replace("tracker: null\n", f"tracker: {tracker}\n"), encoding="utf-8")
        return directory

    def test_without_a_word_it_gets_nothing(self, stranger: Path, plugins: Registry, pages: list[Page]) -> None:
        plugins.register(warnings := _Warnings(), "the warnings")
        resume(stranger, registry=plugins)
        assert not pages
        (said,) = [text for text in warnings.texts if "tracker" in text]
        assert f"bonsai resume {stranger} --tracker paper" in said
        assert "example.org" in said, "users see where values would go"
        assert "hunter2" not in said

    def test_by_name_it_goes_on(self, stranger: Path, plugins: Registry, pages: list[Page]) -> None:
        resume(stranger, registry=plugins, tracker="paper")
        assert pages

    def test_another_than_the_runs_is_refused(self, stranger: Path, plugins: Registry) -> None:
        with pytest.raises(BonsaiError, match=r"--tracker mlflow is not what .* it has the tracker paper"):
            resume(stranger, registry=plugins, tracker="mlflow")

    def test_so_it_is_for_an_adaptation(
        self, small_run: RunConfig, plugins: Registry, pages: list[Page], tmp_path: Path
    ) -> None:
        settings = {"steps": 1, "batch_size": 1, "sequence_length": 16, "evaluations": 1, "teacher": "none"}
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(json.dumps({**settings, "tracker": "paper"}), encoding="utf-8")
        config = configured(small_run, tmp_path / "run", None).model_copy(update={"adapt": str(recipe)})
        run(config, registry=plugins)
        pages.clear()
        for directory in (tmp_path / "run", tmp_path / "run" / "adapted"):
            resume(directory, registry=plugins)
            assert not pages
            resume(directory, registry=plugins, tracker="paper")
            assert [page.name for page in pages] == ["run-adapted"]
            pages.clear()


@pytest.mark.parametrize("breaks", ["open", "log", "close"])
def test_one_that_fails_is_warned_of_once_and_the_run_goes_on(
    small_run: RunConfig, plugins: Registry, pages: list[Page], tmp_path: Path, breaks: str
) -> None:
    plugins.register(warnings := _Warnings(), "the warnings")
    tracker = {"name": "paper", "breaks": breaks}
    assert run(configured(small_run, tmp_path / "run", tracker), registry=plugins).report
    said = [text for text in warnings.texts if "tracker" in text]
    assert len(said) == 1
    assert said[0].startswith("The tracker paper failed, and gets nothing more of this run: ")


def test_what_is_not_finite_is_left_out() -> None:
    from bonsai_core.tracking.values import point_of, summary_of

    assert point_of(SubmodelMeasured(1, 0, 4, "kl", None)) is None
    point = point_of(RoundFinished(1, 0.1, float("nan"), 3, perplexity=None))
    assert point is not None
    assert point.values == {"sparsity": 0.1, "units_removed": 3}
    report = {"perplexity": {"dense": None, "pruned": 2.0, "text": {"name": "a"}}, "config": {"seed": 0}, "rounds": []}
    assert summary_of({**report, "seconds": {"evaluate (dense)": 1}}) == {
        "perplexity.pruned": 2.0,
        "seconds.evaluate_dense": 1.0,
    }


class TestRefused:
    """Before the run."""

    def refused(self, small_run: RunConfig, plugins: Registry, out: Path, tracker: Any, match: str) -> None:
        with pytest.raises(BonsaiError, match=match):
            run(configured(small_run, out, tracker), registry=plugins)
        assert not out.exists()

    def test_one_that_there_is_not(self, small_run: RunConfig, plugins: Registry, tmp_path: Path) -> None:
        self.refused(small_run, plugins, tmp_path / "run", "papr", "no tracker 'papr'. Did you mean 'paper'")

    def test_an_option_that_it_has_not(self, small_run: RunConfig, plugins: Registry, tmp_path: Path) -> None:
        self.refused(small_run, plugins, tmp_path / "run", {"name": "paper", "colour": 1}, "colour")

    def test_one_whose_package_is_missing(
        self, small_run: RunConfig, plugins: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Paper, "package", "no_such_package")
        match = "needs the package no_such_package, which is not installed: pip install 'json'"
        self.refused(small_run, plugins, tmp_path / "run", "paper", match)

    def test_of_an_adaptation_that_follows(self, small_run: RunConfig, plugins: Registry, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("steps: 1\ntracker: papr\n", encoding="utf-8")
        config = configured(small_run, tmp_path / "run", None).model_copy(update={"adapt": str(recipe)})
        with pytest.raises(BonsaiError, match="no tracker 'papr'"):
            run(config, registry=plugins)
        assert not (tmp_path / "run").exists()

    def test_of_an_adaptation(self, small_run: RunConfig, plugins: Registry, tmp_path: Path) -> None:
        with pytest.raises(BonsaiError, match="no tracker 'none'"):
            adapt(AdaptConfig.model_validate({"model": small_run.model, "tracker": "none"}), registry=plugins)


def needs(package: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return optional(importlib.util.find_spec(package), f"{package} is not installed")


class TestReal:
    """Two rounds, recorded by the real packages on this machine, and read back."""

    @needs("tensorboard")
    @pytest.mark.filterwarnings("ignore")
    def test_tensorboard(self, small_run: RunConfig, plugins: Registry, tmp_path: Path) -> None:
        run(configured(small_run, tmp_path / "run", "tensorboard"), registry=plugins)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        read.Reload()
        assert [point.step for point in read.Scalars("round/sparsity")] == [1, 2]
        assert len(read.Scalars("submodel/kl")) == 2 * small_run.submodels
        assert read.Scalars("report/perplexity.pruned")[0].value > 1
        assert "| sparsity | 0.3 |" in read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()

    @needs("mlflow")
    @pytest.mark.filterwarnings("ignore")
    def test_mlflow(
        self, small_run: RunConfig, plugins: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = (tmp_path / "store").as_uri()
        run(configured(small_run, tmp_path / "run", {"name": "mlflow", "uri": uri}), registry=plugins)
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("bonsai")
        (found,) = client.search_runs([experiment.experiment_id])
        assert found.info.status == "FINISHED"
        assert found.data.params["sparsity"] == "0.3"
        assert [point.step for point in client.get_metric_history(found.info.run_id, "round/sparsity")] == [1, 2]
        assert found.data.metrics["report/perplexity.pruned"] > 1

    @needs("trackio")
    @pytest.mark.filterwarnings("ignore")
    def test_trackio(
        self, small_run: RunConfig, plugins: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
        run(configured(small_run, tmp_path / "run", "trackio"), registry=plugins)
        from trackio.sqlite_storage import SQLiteStorage

        rows = SQLiteStorage.get_logs("bonsai", "run")
        assert [row["step"] for row in rows if "round/sparsity" in row] == [1, 2]
        assert len([row for row in rows if "submodel/kl" in row]) == 2 * small_run.submodels
        assert rows[-1]["report/perplexity.pruned"] > 1

    @needs("wandb")
    @pytest.mark.filterwarnings("ignore")
    def test_wandb(self, small_run: RunConfig, plugins: Registry, tmp_path: Path) -> None:
        run(configured(small_run, tmp_path / "run", {"name": "wandb", "mode": "offline"}), registry=plugins)
        (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
        assert b"round/sparsity" in file.read_bytes()


@pytest.mark.parametrize(("command", "read"), [(run_command, "settings"), (adapt_command, "adapt_settings")])
def test_its_options_are_options_of_the_commands(command: Any, read: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tracker: {name: mlflow, experiment: mine}\nseed: 3\n", encoding="utf-8")
    model = ["run"] if read == "adapt_settings" else []
    for arguments, options in (
        (["--tracker", "mlflow", "--tracker.uri", "sqlite:///a.db"], {"uri": "sqlite:///a.db"}),
        (["--config", str(recipe), "--tracker.uri", "u"], {"experiment": "mine", "uri": "u"}),
        (["--config", str(recipe), "--tracker", "mlflow"], {"experiment": "mine"}),
    ):
        values = command.make_context("bonsai", [*model, *arguments]).params
        config = getattr(cli_settings, read)(
            {name: values[name] for name in values if name not in LEFT}, values["config"]
        )
        assert config.tracker == PluginChoice(name="mlflow", options=options)
