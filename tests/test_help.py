"""Help pages, pages of plugins, and checks of plugins from the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from conftest import PICOS
from pydantic import Field
from pydantic.fields import FieldInfo
from test_contracts_catch import Positional

from bonsai_core import (
    AdaptConfig,
    BenchConfig,
    BonsaiError,
    Component,
    EvalConfig,
    Recipe,
    Registry,
    RunConfig,
    SiteView,
    WeightPrior,
    hookimpl,
)
from bonsai_core.cli.main import cli
from bonsai_core.cli.settings import installed, settings
from bonsai_core.registry.registry import COMPONENTS, KINDS
from bonsai_core.settings.common import Settings
from bonsai_core.settings.groups import HEADINGS, heading, is_first

CONFIGS: dict[str, type[Settings]] = {"run": RunConfig, "adapt": AdaptConfig, "eval": EvalConfig, "bench": BenchConfig}
ARGUMENTS = {"model", "models"}
SCREEN = 64  # lines


def shown(*words: str, code: int = 0) -> str:
    """What a command prints at 80 columns, none of it cut."""
    done = execute(*words)
    assert done.exit_code == code, done.output
    assert "…" not in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    return done.output


def execute(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli, list(words), prog_name="bonsai", catch_exceptions=False)


def squeezed(text: str) -> str:
    """Without white space, so that it does not matter where lines were broken."""
    return "".join(text.split())


def works(command: str) -> None:
    """A command has words that `bonsai` takes, and if it is a run, settings and options that plugins take."""
    bonsai, name, *words = shlex.split(command, comments=True)
    assert bonsai == "bonsai"
    if "--help" in words or "--help-all" in words:
        return
    values = cli.commands[name].make_context(name, words).params
    if name == "run":
        del values["dry_run"]
        config = settings(values, values.pop("config"))
        for kind in COMPONENTS.keys() & RunConfig.model_fields.keys():
            if (choice := getattr(config, kind)) is not None:
                installed().create(kind, choice)


def settings_of(name: str) -> Iterator[tuple[str, FieldInfo]]:
    return ((f"--{field.replace('_', '-')}", info) for field, info in CONFIGS[name].model_fields.items())


def options_of(item: object) -> dict[str, FieldInfo]:
    """The options of a component; a declaration has none."""
    return item.model_fields if isinstance(item, type) and issubclass(item, Component) else {}


# Pages of commands


@pytest.mark.parametrize("config", CONFIGS.values())
def test_every_setting_has_a_heading_and_about_ten_are_needed_first(config: type[Settings]) -> None:
    fields = config.model_fields
    assert {heading(field) for field in fields.values()} <= set(HEADINGS)
    assert 3 <= len([name for name, field in fields.items() if is_first(field) and name not in ARGUMENTS]) <= 10


@pytest.mark.parametrize("name", cli.commands)
def test_help_fits_a_screen_and_its_examples_are_commands(name: str) -> None:
    page = shown(name, "--help")
    assert len(page.splitlines()) <= SCREEN
    for line in page.partition("Examples:")[2].splitlines():
        if line.strip():
            works(line)


@pytest.mark.parametrize("name", CONFIGS)
def test_help_lists_what_is_needed_first_and_help_all_everything(name: str) -> None:
    first, whole = squeezed(shown(name, "--help")), squeezed(shown(name, "--help-all"))
    for flag, field in settings_of(name):
        if flag[2:] in ARGUMENTS and name != "run":
            continue
        assert flag in whole
        assert squeezed(field.description or "?") in whole
        assert (squeezed(field.description or "?") in first) == is_first(field), flag


def test_options_of_a_plugin_are_on_the_first_page_of_those_who_name_it() -> None:
    assert "--estimator.folds" not in shown("run", "--help")
    assert "--estimator.folds" in shown("run", "--help-all")
    page = shown("run", "--estimator", "lasso", "--help")
    assert "Options of the estimator lasso:" in page
    assert "--estimator.strengths" in page
    assert "--prior." not in page
    assert "--format.type" in shown("export", "MODEL", "--format", "gguf", "--help")


def test_every_command_stands_once_under_a_heading_of_its_own() -> None:
    page = shown("--help")
    assert "Commands:" not in page
    listing = page.partition("Examples:")[0].splitlines()
    for name in cli.commands:
        assert len([line for line in listing if line.startswith(f"  {name} ")]) == 1, name


# Pages of plugins


def test_every_plugin_has_a_page_that_hides_nothing(registry: Registry) -> None:
    for kind in KINDS:
        for offer in registry.offers(kind):
            page = shown("plugins", f"{kind}/{offer.name}")
            assert page.startswith(f"{kind} {offer.name}\n")
            assert "bonsai-prune" in page
            assert squeezed(offer.summary) in squeezed(page)
            for option, field in options_of(offer.item).items():
                assert f".{option.replace('_', '-')} " in page
                assert field.description, f"{kind} {offer.name}: {option}"
                assert squeezed(field.description) in squeezed(page)
            example, check = re.findall(r"^(?:example|check) +(.*(?:\n {8,}.*)*)", page, flags=re.MULTILINE)
            works(example)
            works(check)


def test_a_page_gives_types_ranges_defaults_sources_and_partners() -> None:
    ridge = shown("plugins", "ridge")
    for words in (
        "(whole number >= 2; default: 5)",
        "(auto, kind or zero; default: auto)",
        "several, each a number > 0",
        "https://arxiv.org/abs/2402.05406",
        "bonsai_plugins.estimators.ridge",
        "the default of `bonsai run`",
        "the recipe paper",
    ):
        assert words in ridge
    assert "estimators that know how sure they are: bayes" in shown("plugins", "adaptive")
    assert "--metric-dataset" in shown("plugins", "choice")
    assert "shapes free" in shown("plugins", "bias")


def test_a_name_of_several_kinds_shows_all_of_them() -> None:
    both = shown("plugins", "random")
    assert "prior random\n" in both
    assert "recipe random\n" in both
    for one in ("prior/random", "priors/random", "prior.random"):
        assert "recipe random\n" not in shown("plugins", one)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rigde", "Did you mean 'ridge'?"),
        ("prior/rigde", "There is no prior 'rigde'."),
        ("prioor/wanda", "There is no kind of plugin 'prioor'. Did you mean 'prior'?"),
    ],
)
def test_an_unknown_plugin_is_answered_with_what_there_is(name: str, hint: str) -> None:
    for words in ([name], ["--check", name]):
        with pytest.raises(BonsaiError, match=hint.replace("?", r"\?")):
            execute("plugins", *words)


def test_a_name_that_two_packages_offer_is_told_with_both() -> None:
    class Stranger:
        @hookimpl
        def bonsai_priors(self) -> list[type[Component]]:
            return [Raising]

    with installed().observed_by(Stranger(), "a-stranger"), installed().observed_by(Stranger(), "another"):
        words = "The prior 'raising' is offered twice, by a-stranger and another. Uninstall or rename one of them."
        for listing in ([], ["priors"]):
            assert squeezed(words) in squeezed(shown("plugins", *listing))
        assert "offered twice" not in shown("plugins", "samplers")
        for one in (["raising"], ["prior/raising"], ["--check", "raising"]):
            with pytest.raises(BonsaiError, match=words):
                execute("plugins", *one)


def test_the_shell_completes_kinds_and_names_of_plugins() -> None:
    def completed(start: str) -> list[str]:
        return [item.value for item in ShellComplete(cli, {}, "bonsai", "_").get_completions(["plugins"], start)]

    assert completed("ri") == ["ridge"]
    assert "prior" in completed("pri")
    assert "sampler/adaptive" in completed("sampler/a")
    assert completed("rando") == ["random"]


# Checks of plugins


class Raising(WeightPrior):
    """Divides by [nothing]."""

    name = "raising"

    def score(self, site: SiteView) -> Any:
        return site.weight.sum() / (1 // 0)


@pytest.mark.parametrize(
    ("broken", "fails", "holds"),
    [
        (Positional, "permuting units permutes scores", "unknown options are refused"),
        (Raising, "one finite non negative score per unit", "options are frozen"),
    ],
)
def test_a_check_names_the_laws_that_a_stranger_breaks(broken: type[Component], fails: str, holds: str) -> None:
    class Stranger:
        @hookimpl
        def bonsai_priors(self) -> list[type[Component]]:
            return [broken]

    with installed().observed_by(Stranger(), "a-stranger"):
        printed = shown("plugins", "--check", broken.name, code=1)
    assert f"prior {broken.name} from a-stranger" in printed
    assert f"FAILS  {fails}" in printed
    assert f"holds  {holds}" in printed
    assert "laws fail." in printed


def test_what_a_law_raises_is_told() -> None:
    class Stranger:
        @hookimpl
        def bonsai_priors(self) -> list[type[Component]]:
            return [Raising]

        @hookimpl
        def bonsai_recipes(self) -> list[Recipe]:
            return [Recipe(name="odd", summary="Odd.", settings={"prior": "no-such-prior", "sparsty": 0.2})]

    with installed().observed_by(Stranger(), "a-stranger"):
        assert "raised ZeroDivisionError" in shown("plugins", "--check", "raising", code=1)
        printed = squeezed(shown("plugins", "--check", "recipe/odd", code=1))
    assert squeezed("Did you mean 'sparsity'?") in printed
    assert squeezed("There is no prior 'no-such-prior'.") in printed


class Careless(WeightPrior):
    """Keeps state, and neither of its options can be left as it is."""

    name = "careless"
    power: float = Field(9.0, le=6)
    strength: int = Field(ge=2)

    def score(self, site: SiteView) -> Any:
        self.seen = site.weight.sum()
        return self.seen


def test_faults_of_authors_are_told_in_their_words() -> None:
    class Stranger:
        @hookimpl
        def bonsai_priors(self) -> list[type[Component]]:
            return [Careless]

    with installed().observed_by(Stranger(), "a-stranger"):
        printed = shown("plugins", "--check", "careless", code=1)
    told = squeezed(printed)
    assert squeezed("FAILS every option has a default and it is valid the default of power is refused: Input") in told
    assert squeezed("the option strength has no default, which it needs") in told
    assert "holds  options are frozen" in printed
    assert squeezed("Careless refuses: power: Input should be less than or equal to 6 (got 9.0).") in told
    assert told.count(squeezed("it set self.seen; components keep no state (at test_help.py:")) == 1
    assert squeezed("self.seen = site.weight.sum())") in told
    assert [line.strip() for line in printed.splitlines()].count("the same") == 6


@pytest.mark.parametrize("name", ["estimator/average", "metric/choice", "recipe/default", "adaptation/lora"])
def test_a_plugin_that_keeps_the_laws_passes(name: str) -> None:
    printed = shown("plugins", "--check", name)
    assert "FAILS" not in printed
    assert "laws hold." in printed


def test_a_slicer_is_checked_on_a_small_model_of_its_family(tmp_path: Path) -> None:
    PICOS[1].build().save_pretrained(tmp_path / "llama")
    assert "All 6 laws hold." in shown("plugins", "--check", "slicer/llama", "--model", str(tmp_path / "llama"))
    with pytest.raises(BonsaiError, match="Add --model"):
        execute("plugins", "--check", "slicer/llama")
    with pytest.raises(BonsaiError, match="is of model type llama, which the slicer 'falcon' is not for"):
        execute("plugins", "--check", "slicer/falcon", "--model", str(tmp_path / "llama"))


def test_a_check_needs_a_name() -> None:
    for words in ([], ["priors"]):
        with pytest.raises(BonsaiError, match="Name the plugin to check"):
            execute("plugins", "--check", *words)
