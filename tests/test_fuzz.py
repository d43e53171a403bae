"""What nobody would type, and files that nobody would write: an answer or a bounded message, soon, and nothing else."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import StoppedError, Stopper
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bonsai_core import AdaptConfig, BonsaiError, EvalConfig, Registry, RunConfig, resume, run
from bonsai_core.cli import settings as command_line
from bonsai_core.cli.main import cli
from bonsai_core.engine.methods import choose_methods
from bonsai_core.errors import LONGEST_MESSAGE
from bonsai_core.events import Journaled
from bonsai_core.settings.strict_yaml import parse
from bonsai_core.sweep.expand import expand
from bonsai_core.sweep.spec import read_sweep

SECONDS = 30.0
FIELDS = [*RunConfig.model_fields, *AdaptConfig.model_fields, *EvalConfig.model_fields]
SWEEP_KEYS = ["title", "base", "grid", "arms", "seeds", "plots", "kind", "x", "y", "lines", "bars", "config", "name"]


def fuzzed(examples: int, phases: Sequence[Phase] = tuple(Phase)) -> settings:
    return settings(
        max_examples=examples,
        phases=phases,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@contextmanager
def answered() -> Iterator[None]:
    """Nothing but a bounded message is raised, and soon."""
    start, length = time.monotonic(), 1
    try:
        yield
    except BonsaiError as error:
        length = len(str(error))
    except (click.UsageError, click.exceptions.Exit):  # what was typed once more, and --help
        pass
    assert 0 < length <= LONGEST_MESSAGE
    assert time.monotonic() - start < SECONDS


# Values, from those that a field may take to those that no field does

TEXTS = st.text(st.characters(), max_size=8)
TYPED = """auto none mlp mlp=1 mlp=1,mlp=2 attention=2,layer=3 0,1,-1 0,0 ridge shortgpt cpu=1GiB 0.1 1e400 nan -1
a/b ~no/b {a:*b} !!float !x true 1:2:3.4 2020-99-99 [1,2] --help"""
ODD = ["", " ", "a\0b", "\ud800", "[" * 60, "9" * 30, "9" * 5000, "x" * 300, "x" * 20_000, "0x" + "f" * 5000]
WORDS = st.sampled_from([*TYPED.split(), *ODD])
NUMBERS = st.one_of(st.integers(-3, 100), st.sampled_from([10**25, 2**63, -(2**64)]), st.floats(), st.booleans())
UNWRITABLE = st.just(5000).map(lambda digits: 10**digits)  # Python refuses to write it out in decimal digits
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), NUMBERS, UNWRITABLE, WORDS, TEXTS, st.binary(max_size=4), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(WORDS, TEXTS, st.sampled_from(["name", "options", "folds", "alphas"])), inner),
    ),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.one_of(st.sampled_from(FIELDS), TEXTS), VALUES, max_size=4)


@pytest.mark.parametrize("schema", [RunConfig, AdaptConfig, EvalConfig])
@fuzzed(70)
@given(values=SETTINGS)
def test_settings_become_a_configuration_or_a_message(schema: Any, values: dict[str, Any]) -> None:
    usual = {"models": ["demo"]} if schema is EvalConfig else {"model": "demo"}
    with answered():
        schema.from_mapping({**usual, **values}, "settings")


@fuzzed(70)
@given(values=SETTINGS)
def test_a_configuration_whose_plugins_take_their_options_is_written_and_read_again(
    registry: Registry, values: dict[str, Any]
) -> None:
    with answered():
        config = RunConfig.from_mapping(values, "settings")
        choose_methods(config, registry)
        assert RunConfig.from_mapping(parse(config.to_yaml()), "the same again") == config


# Recipes and sweeps


@contextmanager
def unlimited_digits() -> Iterator[None]:
    """As other programs write numbers."""
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(usual)


MARKS = """- , [ ] { } &a *a !!int ? | ' " # % << 0.2 mlp=1 yes ~ .inf 1:1:1 2020-99-99 \\ é"""
SPACES = [": ", ": ", ": ", "\n", "\n", "\n  ", " ", "\t", "---\n"]
PIECES = st.sampled_from([*FIELDS, *SWEEP_KEYS, *MARKS.split(), *SPACES])
RECIPES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.one_of(PIECES, TEXTS), max_size=25).map(lambda parts: "".join(parts).encode("utf-8", "replace")),
    st.builds(
        lambda piece, times: (piece * times).encode(),
        st.sampled_from(["k: 1\n", "[", "- ", "a: &a [*a]\n", "{a: ", "'", "x", "a: 1\n", "? ", "1:", "seed: 1\n"]),
        st.sampled_from([3, 30, 1000]),
    ),
)


def parsed(command: str, *words: str) -> Any:
    """What a command makes of its words, before it works."""
    values = dict(cli.commands[command].make_context(command, list(words)).params)
    read: Callable[..., Any] = command_line.settings if command == "run" else command_line.adapt_settings
    return read({name: value for name, value in values.items() if name not in ("config", "dry_run")}, values["config"])


@fuzzed(60)
@given(content=RECIPES)
def test_a_file_is_a_recipe_or_a_message(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with answered():
        parsed("run", "--config", str(file))
    with answered():
        parsed("adapt", "demo", "--config", str(file))


@fuzzed(50)
@given(
    content=RECIPES, beginning=st.sampled_from([b"", b"title: a\n", b"title: a\ngrid: {sparsity: [0.1]}\nbase:\n  "])
)
def test_a_file_is_a_sweep_or_a_message(content: bytes, beginning: bytes, tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_bytes(beginning + content)
    with answered():
        expand(read_sweep(file), file, registry, {})


SWEEPS = st.fixed_dictionaries(
    {"title": st.just("a")},
    optional={
        "base": SETTINGS,
        "grid": st.dictionaries(st.sampled_from(FIELDS), st.lists(VALUES, max_size=3), max_size=2),
        "arms": st.dictionaries(TEXTS, st.one_of(st.none(), SETTINGS), max_size=2),
        "seeds": st.lists(NUMBERS, max_size=3),
        "plots": st.lists(st.dictionaries(st.sampled_from(SWEEP_KEYS), VALUES), max_size=2),
    },
)


@fuzzed(50)
@given(content=SWEEPS)
def test_a_sweep_of_strange_settings_is_one_or_a_message(
    content: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    file = tmp_path / "sweep.yaml"
    with unlimited_digits():
        file.write_text(json.dumps(content, default=str))
    with answered():
        expand(read_sweep(file), file, registry, {})


# Command lines


def options(command: str) -> list[str]:
    """All options of a command, those of the usual plugins too."""
    parameters = cli.commands[command].make_context(command, [], resilient_parsing=True).command.params
    return [option for parameter in parameters for option in parameter.opts]


@fuzzed(70)
@given(words=st.lists(st.tuples(st.sampled_from(options("run")), st.one_of(WORDS, TEXTS)), max_size=4))
def test_a_command_line_of_run_is_a_configuration_or_a_message(
    words: list[tuple[str, str]], registry: Registry
) -> None:
    with answered():
        config = parsed("run", *(part for pair in words for part in pair))
        choose_methods(config, registry)


@fuzzed(50)
@given(words=st.lists(st.tuples(st.sampled_from(options("adapt")), st.one_of(WORDS, TEXTS)), max_size=4))
def test_a_command_line_of_adapt_is_a_configuration_or_a_message(words: list[tuple[str, str]]) -> None:
    with answered():
        parsed("adapt", *(part for pair in words for part in pair))


@fuzzed(40)
@given(name=st.one_of(WORDS, TEXTS))
def test_a_name_that_no_run_has_is_answered(name: str, registry: Registry) -> None:
    with answered():
        cli(["report", "--", name], standalone_mode=False)
    with answered():
        resume(name, registry=registry)


# Files of a run directory

VARYING = ("seconds", "memory")
OTHERS = st.sampled_from([None, True, -1, "x", "../../x", [], [[1]], {}, {"x": 1}])


@dataclass(frozen=True)
class Harm:
    """Something done to one file of a run directory; which file and where in it, as fractions."""

    file: float
    kind: str
    place: float
    value: Any

    def do(self, directory: Path) -> None:
        files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
        file = files[int(self.file * len(files))]
        data = file.read_bytes()
        where = int(self.place * len(data))
        match self.kind:
            case "cut":
                file.write_bytes(data[:where])
            case "flip":
                file.write_bytes(
                    data[:where] + bytes([255 - byte for byte in data[where : where + 1]]) + data[where + 1 :]
                )
            case "folder":
                file.unlink()
                file.mkdir()
            case "delete":
                file.unlink()
            case "json" if file.suffix == ".json":
                file.write_text(self._with_another_value(data.decode()))
            case "json":
                self._change_an_event(directory / "journal.sqlite")

    def _with_another_value(self, text: str) -> str:
        """One value of a JSON text is another."""
        found = json.loads(text)
        places = list(_places(found))
        if not places:
            return json.dumps(self.value)
        parent, key = places[int(self.place * len(places))]
        parent[key] = self.value
        return json.dumps(found)

    def _change_an_event(self, journal: Path) -> None:
        with closing(sqlite3.connect(journal)) as database:
            rows = database.execute("SELECT number, payload FROM events ORDER BY number").fetchall()
            number, payload = rows[int(self.file * len(rows))]
            with database:
                changed = (self._with_another_value(payload), number)
                database.execute("UPDATE events SET payload = ? WHERE number = ?", changed)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(the object or list, its key) of everything in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


HARMS = st.builds(
    Harm,
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["cut", "flip", "folder", "delete", "json", "json"]),
    st.floats(0, 1, exclude_max=True),
    OTHERS,
)


@pytest.fixture(scope="module")
def runs(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run and one that was stopped in its second round, both of the same settings."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {name: folder / name for name in ("finished", "stopped")}
    config = small_run.model_copy(update={"latency": False})
    run(config.model_copy(update={"out": paths["finished"]}), registry=registry)
    stopping = Registry()
    stopping.register(
        Stopper(lambda event: isinstance(event, Journaled) and event.key == "round-2/submodels-0"), "a test"
    )
    with pytest.raises(StoppedError):
        run(config.model_copy(update={"out": paths["stopped"]}), registry=stopping)
    return paths


@pytest.mark.parametrize("which", ["finished", "stopped"])
@fuzzed(12, [Phase.generate])  # runs are too slow to look for the smallest harm
@given(harm=HARMS)
def test_a_run_directory_that_was_harmed_gives_the_same_report_or_a_message(
    which: str, harm: Harm, runs: dict[str, Path], registry: Registry, tmp_path: Path
) -> None:
    expected = json.loads((runs["finished"] / "report.json").read_text())
    directory = tmp_path / "run"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(runs[which], directory)
    before = (directory / "journal.sqlite").read_bytes()
    harm.do(directory)
    journal = directory / "journal.sqlite"
    measurements_kept = journal.is_file() and journal.read_bytes() == before
    with answered():
        cli(["report", str(directory)], standalone_mode=False)
    with answered():
        found = dict(resume(directory, registry=registry).report)
        if measurements_kept:  # a number that is another one cannot be told from a measurement
            assert {**found, **dict.fromkeys(VARYING)} == {**expected, **dict.fromkeys(VARYING)}
