"""Every block of code in README.md, CONTRIBUTING.md and docs/ is checked here, or a comment says why it is not.

    <!-- skip: next "the reason" -->

- `python`: executed, one after the other within a page, with a pico model in place of the demo model. With
  `title="bonsai_NAME.py"` it becomes that module, installed as a plugin; with `title="test_NAME.py"` the laws that its
  classes inherit are tested.
- `sh`: what calls `bonsai`, by a launcher too, is parsed by the command itself, which validates the settings. Where the
  page has installed a plugin, it is executed, made small by `BONSAI_*` variables. Programs of others are neither.
- `yaml`, `toml`: read, and used as what they are: a recipe, a sweep, a project.
- `text`: output, which is not code.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import rich_click as click
import yaml
from click.testing import CliRunner
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from bonsai_core import AdaptConfig, RunConfig, run
from bonsai_core.cli.main import cli
from bonsai_core.cli.settings import adapt_settings, installed, settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = RawFencedCodeBlockLexer(re.compile(r'(?P<language>\w*)(?: title="(?P<title>[\w.]+)")?$\n', re.MULTILINE))
SMALL = {
    "DATASET": "calibration.txt",
    "GUARD_SAMPLES": "0",
    "SUBMODELS": "4",
    "SAMPLES": "1",
    "PRIOR_SAMPLES": "4",
    "HELD_OUT_SAMPLES": "1",
    "SEQUENCE_LENGTH": "32",
    "EVAL_SAMPLES": "1",
    "EVAL_SEQUENCE_LENGTH": "64",
    "LATENCY": "0",
    "ADAPT_TOKENS": "64",
    "ADAPT_SEQUENCE_LENGTH": "32",
    "ADAPT_EVAL_SAMPLES": "1",
    "ADAPT_EVAL_SEQUENCE_LENGTH": "64",
}
LAUNCHERS = {"torchrun", "accelerate"}
OTHER_PROGRAMS = {
    *("cd", "git", "pip", "python", ".venv/bin/python", ".venv/bin/ruff", ".venv/bin/mkdocs", ".ci/run"),
    *("vllm", "llama-cli", "mlx_lm.generate"),
    *("ray", "sbatch", "kubectl"),
}


class Page:
    """A page on its way through its blocks, in a folder of its own, which is the working directory."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._patch = patch
        self._has_plugin = False
        self._python = PythonEvaluator()

    def __call__(self, example: Example) -> None:
        language, title = example.region.lexemes["language"], example.region.lexemes["title"]
        if title is not None:
            (self.folder / title).write_text(example.parsed, encoding="utf-8")
        checks = {"python": self.python, "sh": self.shell, "yaml": self.yaml, "toml": self.toml, "text": self.text}
        assert language in checks, f"line {example.line}: blocks are {', '.join(checks)}, not {language!r}"
        checks[language](example, title)

    def python(self, example: Example, title: str | None) -> None:
        if title is None:
            self._python(example)
        elif title.startswith("test_"):
            assert check_laws(import_module(title.removesuffix(".py"))) > 0, f"{title} inherits no laws"
        else:
            name = title.removesuffix(".py")
            metadata = self.folder / f"{name}-1.0.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (metadata / "entry_points.txt").write_text(f"[bonsai]\n{name} = {name}\n")
            invalidate_caches()
            installed.cache_clear()
            assert not installed().problems
            self._has_plugin = True

    def shell(self, example: Example, title: str | None) -> None:
        for line in example.parsed.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["export"]:
                self._patch.setenv(*words[1].split("=", 1))
            elif words and words[0] in ("bonsai", "./bonsai"):
                self.command(words[1:])
            elif words and words[0] in LAUNCHERS:
                self.command(words[words.index("bonsai_core") + 1 :])
            else:
                assert not words or words[0] in OTHER_PROGRAMS, f"nobody checks: {line}"

    def command(self, words: list[str]) -> None:
        if words[0] == "test":
            return  # of the script ./bonsai, which is how this test is run
        if self._has_plugin or {"--help", "--help-all"} & set(words):
            execute(words)
        else:
            parse(words)

    def yaml(self, example: Example, title: str | None) -> None:
        assert title is not None, "a file has a name"
        if "arms" in yaml.safe_load(example.parsed):
            execute(["sweep", title, "--dry-run"])
        else:
            settings({}, title)

    def toml(self, example: Example, title: str | None) -> None:
        tomllib.loads(example.parsed)

    def text(self, example: Example, title: str | None) -> None:
        """Output."""


def execute(words: list[str]) -> None:
    """Execute a command in this process."""
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def check_laws(module: Any) -> int:
    """Test what the classes of a module inherit, and say how many laws that was."""
    classes = [item for name, item in vars(module).items() if name.startswith("Test")]
    laws = [getattr(case(), name) for case in classes for name in dir(case) if name.startswith("test_")]
    for law in laws:
        law()
    return len(laws)


def parse(words: list[str], group: click.Group = cli) -> None:
    """Have a command parsed, and its settings validated."""
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"there is no command {words[0]}"
    if isinstance(command, click.Group):
        return parse(words[1:], command)
    values = command.make_context(words[0], words[1:]).params
    if words[0] == "run":
        chosen = {name: value for name, value in values.items() if name in RunConfig.model_fields or "__" in name}
        settings(chosen, values["config"])
    elif words[0] == "adapt":
        adapt_settings({name: values[name] for name in AdaptConfig.model_fields}, values["config"])


@pytest.fixture(scope="module")
def demo(pico_directory: Path, small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose `pages` has what pages name, and a pico model in place of the demo model."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(pico_directory, folder / "cache" / "SmolLM2-135M-Instruct")
    shutil.copytree(pico_directory, folder / "pages" / "path" / "to" / "checkpoint")
    shutil.copy(small_run.dataset, folder / "pages" / "calibration.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONSAI_CACHE", str(folder / "cache"))
        run(small_run.model_copy(update={"model": "demo", "out": folder / "pages" / "runs" / "demo-20"}))
        yield folder


@pytest.fixture
def page(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(demo / "pages", tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, value in SMALL.items():
        monkeypatch.setenv(f"BONSAI_{name}", value)
    modules = set(sys.modules)
    yield Page(tmp_path, monkeypatch)
    for name in set(sys.modules) - modules:
        if name.startswith(("bonsai_", "test_")) and not name.startswith(("bonsai_core", "bonsai_plugins")):
            del sys.modules[name]
    installed.cache_clear()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_the_page_does_what_it_says(path: Path, page: Page) -> None:
    reasons = check(path, page)
    assert all(len(reason.split()) > 3 for reason in reasons), "say why a block is not checked"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_code_is_in_blocks_that_name_their_language(path: Path) -> None:
    outside = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"\n\n( {4}[^\n]+)", outside)
    assert not indented, "indented blocks of code have no language, so nobody checks them"


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ("```python\n1 / 0\n```\n", ZeroDivisionError),
        ("```sh\nbonsai run --no-such-option 1\n```\n", click.ClickException),
        ("```sh\nbonsai run --sparsity 2\n```\n", Exception),
        ("```sh\ncurl example.org\n```\n", AssertionError),
        ("```\nwithout a language\n```\n", AssertionError),
        ('```yaml title="x.yaml"\nsparsty: 0.2\n```\n', Exception),
        ('```python title="test_nothing.py"\nx = 1\n```\n', AssertionError),
    ],
)
def test_a_block_that_is_wrong_is_found(block: str, fault: type[Exception], page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(block)
    with pytest.raises(fault):
        check(file, page)


def check(path: Path, page: Page) -> list[str]:
    """Check the blocks of a page in their order; the reasons why some are skipped."""

    def blocks(document: Document) -> Iterable[Region]:
        for region in BLOCK(document):
            region.parsed, region.evaluator = region.lexemes["source"], page
            yield region

    reasons = []
    for example in Document.parse(str(path), blocks, SkipParser()).examples():
        try:
            example.evaluate()
        except SkipTest as skipped:
            reasons.append(str(skipped))
    return reasons
