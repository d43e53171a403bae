"""The command line as people use it; in processes of its own where that matters, few, because each loads torch."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bonsai_core import BonsaiError, Registry, RunConfig
from bonsai_core.cli.main import cli, main
from bonsai_core.cli.settings import settings
from bonsai_core.registry.family_table import families_markdown
from bonsai_core.registry.registry import KINDS

BONSAI = shutil.which("bonsai", path=str(Path(sys.executable).parent)) or "bonsai"


def execute(*command: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140", **environment}
    return subprocess.run(command, cwd=cwd, env=whole, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def bonsai(*words: str, **environment: str) -> str:
    done = execute(BONSAI, *words, cwd=None, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inside(*words: str, **environment: str) -> str:
    """What a command writes that is executed in this process, which has torch already."""
    done = CliRunner(env={"COLUMNS": "140", **environment}).invoke(cli, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def recipe(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    file.write_text(small_run.model_copy(update={"latency": True}).to_yaml())
    return file


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by the command, with what it printed beside it."""
    path = tmp_path_factory.mktemp("runs") / "pico [30]"
    shown = bonsai("run", "--config", str(recipe), "--out", str(path))
    (path.parent / "shown.txt").write_text(shown)
    return path


@pytest.fixture(scope="module")
def report(finished: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished / "report.json").read_text())
    return found


# A run and what can be asked about it


def test_the_table_of_families_in_the_documentation_is_made_from_the_declarations() -> None:
    families = Registry().families()
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8")
    assert families_markdown(families) in page
    shown = inside("families", COLUMNS="200")
    assert all(family.name in shown and family.model_types[0] in shown for family in families)


def test_a_run_says_what_it_does_and_ends_with_the_report(finished: Path, report: dict[str, Any]) -> None:
    shown = (finished.parent / "shown.txt").read_text()
    assert f"to 30.0% sparsity in 2 rounds of 4 sub-models, into {finished}\n" in shown
    assert "The result will load in transformers" in shown
    assert "round 2 of 2" in shown
    assert f"{report['parameters']['pruned']:,}" in shown
    assert f"{report['perplexity']['pruned']:.2f}" in shown
    assert report["sparsity"]["decoder"] >= 0.3
    assert report["latency"]["pruned_s"] > 0


def test_the_report_can_be_shown_again_and_read_by_programs(finished: Path, report: dict[str, Any]) -> None:
    assert f"{report['sparsity']['decoder']:.2%}" in inside("report", str(finished))
    assert json.loads(bonsai("report", str(finished), "--json")) == report


def test_what_resume_shows_of_a_finished_run_is_its_report(finished: Path, report: dict[str, Any]) -> None:
    assert f"{report['parameters']['pruned']:,}" in inside("resume", str(finished))


def test_eval_agrees_with_the_report(finished: Path, report: dict[str, Any], small_run: RunConfig) -> None:
    sizes = ["--eval-samples", "2", "--eval-sequence-length", "64", "--json"]
    models = [str(finished), str(finished / "model")]
    found = json.loads(inside("eval", *models, "--dataset", str(small_run.eval_dataset), *sizes))
    sizes_of = ("dense", "pruned", "pruned")
    assert [model["parameters"] for model in found["models"]] == [report["parameters"][which] for which in sizes_of]
    assert [model["perplexity"] for model in found["models"]] == pytest.approx(
        [report["perplexity"][which] for which in sizes_of]
    )
    assert found["text"] == {**report["perplexity"]["text"], "windows": 2, "sequence_length": 64}


@pytest.mark.parametrize("ours", [False, True], ids=["nothing of ours", "bonsai-prune"])
def test_the_checkpoint_loads_by_the_lines_of_the_documentation(
    finished: Path, report: dict[str, Any], ours: bool, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "runtimes.md").read_text(encoding="utf-8")
    section = page.partition("## transformers")[2].partition("\n## ")[0]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[ours]
    (tmp_path / "runs" / "demo-20").mkdir(parents=True)
    (tmp_path / "runs" / "demo-20" / "model").symlink_to(finished / "model")
    absent = "" if ours else "import sys; sys.modules['bonsai_core'] = None\n"
    shown = "\nprint(sum(p.numel() for p in model.parameters()), tokenizer.decode(tokenizer('the text')['input_ids']))"
    # Its standard input is closed: a question would end it.
    done = execute(sys.executable, "-c", absent + code + shown, cwd=tmp_path, HF_HOME=str(tmp_path))
    assert done.stdout == f"{report['parameters']['pruned']} the text\n", done.stderr


def test_units_lists_the_sites(pico_directory: Path) -> None:
    shown = inside("units", "--model", str(pico_directory))
    assert "layers.2.attention" in shown
    assert "150 units, " in shown


def test_a_dry_run_writes_nothing(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["run", "--config", str(recipe), "--out", str(tmp_path / "run"), "--dry-run"]
    adapt = recipe.with_name("after.yaml")
    adapt.write_text("{method: full, steps: 4, batch_size: 4, sequence_length: 32}")
    for more, then in ([], False), (["--adapt", str(adapt)], True):
        shown = inside(*command, *more)
        assert "Would remove 30.0%" in shown
        assert "in 2 rounds" in shown
        assert ("Would then adapt it (full) in 4 steps on 512 tokens" in shown) == then
        assert "Nothing was written." in shown
    assert list(tmp_path.iterdir()) == []


# What cannot be printed


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_listing_can_be_written_in_every_encoding(
    finished: Path, report: dict[str, Any], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = printed(monkeypatch, encoding, "report", str(finished))
    assert re.search(r"kept mlp +[1-8]{3} ", shown)
    assert f"{report['parameters']['pruned']:,}" in shown
    assert json.loads(printed(monkeypatch, encoding, "report", str(finished), "--json")) == report
    for words in (["plugins"], ["families"], ["families", "--markdown"], ["run", "--help"], ["report", "/nöwhere/語"]):
        printed(monkeypatch, encoding, *words)


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str) -> str:
    """What a command writes to output and error of an encoding."""
    with (
        io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) as stream,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["bonsai", *words])
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, stream)
        with suppress(SystemExit):
            main()
        assert isinstance(stream.buffer, io.BytesIO)
        return stream.buffer.getvalue().decode("utf-8" if "--markdown" in words else encoding)


def test_a_name_that_is_not_utf_8_is_told_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "utf-8"):
        assert r"\udcff" in printed(monkeypatch, encoding, "report", "/nowhere\udcff")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
@pytest.mark.parametrize("words", [["families"], ["run", "--help-all"], []], ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(words: list[str]) -> None:
    with subprocess.Popen([BONSAI, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("setpriv"), reason="needs setpriv to be nobody special")
def test_a_folder_that_may_not_be_looked_into_is_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0)
    done = execute(*(UNPRIVILEGED if os.geteuid() == 0 else []), BONSAI, "report", str(folder / "run"))
    assert done.returncode == 1
    assert f"{folder / 'run' / 'adapt.yaml'} cannot be used: Permission denied." in done.stderr
    assert "Traceback" not in done.stderr


# Adaptation


ADAPT = ["--batch-size", "4", "--sequence-length", "32", "--eval-samples", "2", "--eval-sequence-length", "64"]


def test_adapt_takes_recipes_then_the_environment_then_options(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapted"
    command = [str(finished), "--config", "full", "--recover", "scales", "--out", str(out), "--evaluations", "1"]
    shown = inside("adapt", *command, *ADAPT, BONSAI_ADAPT_STEPS="3", BONSAI_ADAPT_BATCH_SIZE="16")
    assert f"Adapting {finished} (scales) in 3 steps on 384 tokens" in shown
    assert "loss" in shown
    report = json.loads((out / "report.json").read_text())
    assert (report["config"]["method"], report["steps"], report["config"]["batch_size"]) == ("scales", 3, 4)
    assert f"{report['perplexity']['after']:.2f}" in shown
    assert f"{report['perplexity']['after']:.2f}" in inside("report", str(out))
    assert f"{report['perplexity']['after']:.2f}" in inside("resume", str(out))


def test_the_papers_recipe_has_the_papers_values(finished: Path, tmp_path: Path) -> None:
    command = [str(finished), "--config", "paper", "--out", str(tmp_path / "adapted"), "--steps", "1"]
    inside("adapt", *command, "--evaluations", "1", *ADAPT)
    settings = json.loads((tmp_path / "adapted/report.json").read_text())["config"]
    expected = {"method": "lora", "lora_rank": 128, "lora_alpha": 512, "lora_dropout": 0.05, "learning_rate": 1e-4}
    assert expected.items() <= settings.items()
    assert (settings["kl_weight"], settings["batch_size"]) == (0.01, 4)


# What must not be slow


@pytest.mark.parametrize("words", [["run", "--help-all"], ["plugins"], ["plugins", "ridge"], ["--help"]], ids=" ".join)
def test_help_and_listings_load_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from bonsai_core.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('heavy:', {'torch', 'transformers', 'datasets', 'sklearn', 'scipy'} & sys.modules.keys() or 'none')"
    )
    done = execute(sys.executable, "-c", code, *words)
    assert done.stdout.splitlines()[-1] == "heavy: none", done.stderr


# Hints


def test_plugins_lists_every_kind_with_its_origin() -> None:
    lines = bonsai("plugins").splitlines()
    assert {line.split()[0] for line in lines} >= {*KINDS}
    assert any(line.split()[:2] == ["estimator", "ridge"] and "bonsai-prune" in line for line in lines)
    assert {line.split()[0] for line in inside("plugins", "priors").splitlines()} & {*KINDS} == {"prior"}


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["rn"], 2, "Did you mean 'run'?"),
        (["run", "--sparsty", "0.2"], 2, "Did you mean '--sparsity'?"),
        (["run", "--estimator.fold", "3"], 2, "--estimator.folds"),
        (["plugins", "prunes"], 1, "Available: adaptation, compensator, estimator, exporter, metric, prior"),
        (["run", "--sparsity", "2"], 1, "sparsity: Input should be less than 1 (got '2')"),
        (["run", "--estimator.folds", "["], 1, "--estimator.folds: '[' is not a value"),
        (["run", "--config", "/nowhere.yaml"], 1, "Cannot read the recipe /nowhere.yaml"),
        (["run", "--config", "wanda"], 1, "There is no recipe 'wanda'. Did you mean 'wanda-sp'?"),
        (["report", "/nowhere [x]/run"], 1, "/nowhere [x]/run holds no run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_with_what_to_do(words: list[str], code: int, hint: str) -> None:
    done = execute(BONSAI, *words)
    assert done.returncode == code
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bonsai run --estimator.", "plain,--estimator.folds"),
        ("bonsai run --prior ", "plain,wanda"),
        ("bonsai re", "plain,report"),
    ],
)
def test_the_shell_completes_plugins_and_their_options(line: str, expected: str) -> None:
    position = str(len(line.split(" ")) - 1)
    shown = bonsai(_BONSAI_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=position)
    assert expected in shown.splitlines()


# Which value counts


def chosen(*words: str) -> RunConfig:
    values = dict(cli.commands["run"].make_context("run", list(words)).params)
    values.pop("dry_run")
    return settings(values, values.pop("config"))


def test_options_go_before_the_environment_and_that_before_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sparsity: 0.1\nsamples: 11\nseed: 1\nlatency: false\nestimator: {name: ridge, folds: 3}\n")
    monkeypatch.setenv("BONSAI_CONFIG", str(recipe))
    monkeypatch.setenv("BONSAI_SPARSITY", "0.2")
    monkeypatch.setenv("BONSAI_SAMPLES", "22")
    monkeypatch.setenv("BONSAI_ESTIMATOR_ALPHAS", "[0.5]")
    config = chosen("--sparsity", "0.3")
    assert (config.sparsity, config.samples, config.seed, config.latency) == (0.3, 22, 1, False)
    assert config.estimator.options == {"folds": 3, "alphas": [0.5]}
    assert config.submodels == RunConfig().submodels
    assert chosen("--estimator.folds", "4", "--latency").estimator.options["folds"] == 4


def test_options_in_a_recipe_stay_with_their_plugin(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("estimator: {name: ridge, folds: 3}\n")
    assert chosen("--config", str(recipe), "--estimator", "ridge").estimator.options == {"folds": 3}
    assert chosen("--config", str(recipe), "--estimator", "lasso").estimator.options == {}


def test_a_recipe_by_name_is_overridden_as_a_file_is() -> None:
    assert chosen("--config", "flap").compensator.name == "bias"
    config = chosen(
        "--config", "flap", "--compensator", "none", "--prior-samples", "8", "--estimator.allocation", "equal"
    )
    assert (config.compensator.name, config.prior_samples, config.prior.name) == ("none", 8, "fluctuation")
    assert config.estimator.options == {"allocation": "equal"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", ""], "The recipe '' cannot be used: the name is empty"),
        (["--config", "x" * 300], r"The recipe .* is too long \(300 bytes"),
        (["--config", "/dev/zero"], "The recipe /dev/zero is not a file"),
        (["--model", ""], "model: the name is empty"),
        (["--out", ""], "out: the name is empty"),
        (["--out", "x" * 256], "out: the name is too long"),
        (["--dataset", "a\udcff"], "dataset: the name is not UTF-8"),
        (["--adapt", "a\0"], "adapt: the name has a zero byte"),
        (["--min-rounds", "9" * 25], "min_rounds: .* less than or equal to 10000"),
        (["--min-units", "mlp=1,mlp=2"], "min_units: mlp is there 2 times"),
        (["--sparsity", "1e-300"], "sparsity 1e-300 is less than a unit of any model"),
        (["--seed", str(2**32)], "seed: .* less than 4294967296"),
        (["--device-map", "auto", "--max-memory", "cpu=much"], "max_memory: write it like 0=20GiB,cpu=60GiB"),
        (["--estimator.alphas", "[" * 100], "not a value that YAML can read"),
    ],
    ids=lambda value: " ".join(value)[:30].encode("ascii", "replace").decode() if isinstance(value, list) else "",
)
def test_values_that_can_only_fail_later_are_refused_at_once(words: list[str], message: str) -> None:
    with pytest.raises(BonsaiError, match=message):
        chosen(*words)


@pytest.mark.parametrize("value", ["5", "{folds: 3}", "[ridge]"])
def test_a_recipe_that_names_no_plugin_is_refused(tmp_path: Path, value: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"estimator: {value}\n")
    with pytest.raises(BonsaiError, match=r"estimator: .* chooses no plugin. Write a name"):
        chosen("--config", str(recipe))


def test_a_configuration_is_a_recipe_that_reproduces_it(tmp_path: Path, small_run: RunConfig) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(small_run.to_yaml())
    assert chosen("--config", str(recipe)) == small_run
