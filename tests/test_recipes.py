"""Recipes: what is offered is valid, copies of it are the same, and what is shown can be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import Pico, saved
from transformers import PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Recipe, Registry, RunConfig, dry_run
from bonsai_core.cli.main import cli
from bonsai_core.cli.recipes import recipe_file
from bonsai_core.cli.settings import adapt_settings, installed, settings
from bonsai_core.registry.registry import COMPONENTS
from bonsai_core.settings.recipe_files import read_recipe

RUNS = [offer.item for offer in installed().offers("recipe") if isinstance(offer.item, Recipe)]
ADAPTATIONS = [offer.item for offer in installed().offers("adaptation") if isinstance(offer.item, Recipe)]
SHORT = {"sequence_length": 32, "eval_samples": 2, "eval_sequence_length": 64, "samples": 2, "prior_samples": 8}
"""What makes a dry run short: the windows that are read."""


def bonsai(*words: str, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, list(words))


def refused(*words: str) -> str:
    error = bonsai(*words).exception
    assert isinstance(error, BonsaiError)
    return str(error)


@pytest.mark.parametrize("extra", [[], ["--all"]], ids=["alone", "with-defaults"])
@pytest.mark.parametrize("recipe", RUNS, ids=lambda recipe: recipe.name)
def test_a_copy_of_a_runs_recipe_gives_the_same_configuration(recipe: Recipe, extra: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert bonsai("recipe", "copy", recipe.name, str(file), *extra).exit_code == 0
    assert settings({}, str(file)) == settings({}, recipe.name)
    assert read_recipe(file).keys() == recipe.settings.keys()


@pytest.mark.parametrize("extra", [[], ["--all"]], ids=["alone", "with-defaults"])
@pytest.mark.parametrize("recipe", ADAPTATIONS, ids=lambda recipe: recipe.name)
def test_a_copy_of_an_adaptations_recipe_does_too(recipe: Recipe, extra: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert bonsai("recipe", "copy", recipe.name, str(file), "--adapt", *extra).exit_code == 0
    model = {"model": "runs/x"}
    assert adapt_settings(model, str(file)) == adapt_settings(model, recipe.name)
    assert read_recipe(file).keys() == recipe.settings.keys()


@pytest.mark.parametrize("recipe", RUNS, ids=lambda recipe: recipe.name)
def test_the_plugins_of_a_recipe_exist_with_its_options(recipe: Recipe, registry: Registry) -> None:
    config = settings({}, recipe.name)
    for kind in COMPONENTS.keys() - {"exporter"}:
        if (choice := getattr(config, kind)) is not None:
            registry.create(kind, choice)
    if config.adapt is not None:
        adapt_settings({"model": "runs/x"}, config.adapt)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return saved(Pico("mixtral", 2), tokenizer, tmp_path_factory.mktemp("models") / "mixture")


@pytest.mark.parametrize("recipe", RUNS, ids=lambda recipe: recipe.name)
def test_a_recipe_can_be_run(recipe: Recipe, small_run: RunConfig, mixture: Path) -> None:
    texts = {name: getattr(small_run, name) for name in ("dataset", "eval_dataset", "guard_dataset")}
    model = mixture if "experts" in recipe.settings.get("units", ()) else small_run.model
    changes: dict[str, Any] = {**texts, **SHORT, "model": str(model)}
    changes |= {"max_memory": "cpu=1GiB"} if "max_memory" in recipe.settings else {}
    changes |= {"target_params": "0.7x"} if "target_params" in recipe.settings else {}
    missing = {"adapt", *(["runtimes"] if recipe.name == "gguf" else [])}  # their text, and llama.cpp's tools
    kept = {name: value for name, value in recipe.settings.items() if name not in missing}
    forecast = dry_run(RunConfig.from_mapping({**kept, **changes}, recipe.name))
    assert forecast.num_rounds >= 1


def test_the_list_says_what_each_is_costs_and_gives() -> None:
    lines = bonsai("recipe", "list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    text = " ".join(" ".join(lines).split())
    for recipe in (*RUNS, *ADAPTATIONS):
        assert f"{recipe.name} {recipe.summary}" in text
        assert not recipe.cost or f"costs {recipe.cost}" in text
        assert not recipe.gives or f"gives {recipe.gives}" in text
    assert text.count("not measured here") == sum(not recipe.measured for recipe in (*RUNS, *ADAPTATIONS))


@pytest.mark.parametrize("recipe", [*RUNS, *ADAPTATIONS], ids=lambda recipe: recipe.name)
def test_a_built_in_recipe_says_what_it_costs_and_how_that_is_known(recipe: Recipe) -> None:
    assert recipe.group
    assert recipe.cost
    assert recipe.source or recipe.measured
    figures = any(character.isdecimal() for character in recipe.gives)
    assert recipe.measured or not figures


def test_a_recipe_is_shown_with_where_it_is_from() -> None:
    shown = bonsai("recipe", "show", "flap").stdout
    assert "# Source: An et al. 2023, arXiv:2312.11983." in shown
    assert "# Use: bonsai run --config flap" in shown
    assert "\nestimator:\n  name: none\n  allocation: global\n" in shown
    assert "submodels" not in shown
    assert "\n# submodels: 80\n" in bonsai("recipe", "show", "flap", "--all").stdout


def test_a_name_of_two_recipes_is_that_of_a_run_unless_said_otherwise() -> None:
    shown = bonsai("recipe", "show", "paper")
    assert "\nsubmodels: 200\n" in shown.stdout
    assert "paper is a recipe of an adaptation too" in shown.stderr
    assert "\nlora_rank: 128\n" in bonsai("recipe", "show", "paper", "--adapt").stdout
    assert "\nmethod: scales\n" in bonsai("recipe", "show", "scales").stdout


def test_a_file_is_overwritten_only_on_request(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sparsity: 0.7\n", encoding="utf-8")
    assert "is there already. Name another file, or give --force" in refused("recipe", "copy", "fast", str(file))
    assert file.read_text(encoding="utf-8") == "sparsity: 0.7\n"
    assert f"Overwrote {file}" in bonsai("recipe", "copy", "fast", str(file), "--force").stdout
    assert settings({}, str(file)) == settings({}, "fast")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "latpop"], "There is no recipe 'latpop'. Did you mean 'laptop'"),
        (["show", "scals"], "Did you mean 'scales'"),
        (["show", "flap", "--adapt"], "flap is a recipe of a run alone"),
        (["copy", "fast", "mine"], "mine must end in .yaml or .yml"),
        (["copy", "fast", "missing/folder/mine.yaml"], "Cannot write missing/folder/mine.yaml: No such file"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_said(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused("recipe", *words)
    assert not list(tmp_path.iterdir())


def test_no_text_of_a_recipe_becomes_a_setting(tmp_path: Path) -> None:
    text = "harmless\nsparsity: 0.9\r\n\x1b[2Jsamples: 1\x85seed: 7\u2028seed: 8"
    recipe = Recipe(name="x\nseed: 9", summary=text, settings={}, cost=text, gives=text, measured=text, source=text)
    content = recipe_file(recipe, "recipe", "a-plugin", "x", with_defaults=True)
    (tmp_path / "x.yaml").write_text(content, encoding="utf-8")
    assert read_recipe(tmp_path / "x.yaml") == {}
    assert "\x1b" not in content


def test_a_recipe_with_a_bad_setting_is_named_with_its_plugin() -> None:
    recipe = Recipe(name="bad", summary="", settings={"sparsty": 0.5})
    with pytest.raises(BonsaiError, match=r"the recipe bad of a-plugin: There is no setting 'sparsty'.*'sparsity'"):
        recipe_file(recipe, "recipe", "a-plugin", "bad", with_defaults=False)


def test_the_list_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from bonsai_core.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['recipe', 'list']).exit_code == 0\n"
        "print({'torch', 'transformers', 'datasets', 'sklearn', 'scipy'} & sys.modules.keys() or 'nothing')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "nothing", done.stderr
