"""The laws of exporters."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from bonsai_core.contracts import Checkpoint, Exporter, Family
from bonsai_core.errors import BonsaiError
from bonsai_core.runtimes.checkpoint import describe
from bonsai_core.testing.component import ComponentContract
from bonsai_core.testing.examples import save_example
from bonsai_core.units import SiteKind, UnitKind

LLAMA = Family(name="example", model_types=("llama",))


class ExporterContract(ComponentContract[Exporter]):
    """Inherit, and let `make` return the exporter."""

    def test_it_names_its_runtime(self) -> None:
        exporter = self.make()
        assert exporter.runtime == exporter.runtime.lower() != "", "what users type after --for is lower case"
        assert exporter.suffix == "" or exporter.suffix.startswith("."), f"{exporter.suffix!r} must begin with a dot"
        assert not exporter.variant or exporter.variant in type(exporter).model_fields, "`variant` names an option"

    def test_its_runner_stands_alone(self) -> None:
        runner = self.make().runner
        if runner is None:
            return
        tree = ast.parse(runner.read_text(encoding="utf-8"))
        imports = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        imports += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        mine = [name for name in imports if name.split(".")[0] in ("bonsai_core", "bonsai_plugins")]
        assert not mine, f"it runs where Bonsai is not installed, and imports {mine}"
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Model"]
        assert classes, "it needs a class `Model`"
        methods = {item.name for item in classes[0].body if isinstance(item, ast.FunctionDef)}
        missing = {"log_probabilities", "generate", "time"} - methods
        assert not missing, f"its class `Model` lacks {', '.join(sorted(missing))}"

    def test_what_it_asks_of_shapes_exists(self) -> None:
        with _example() as checkpoint:
            shapes = self.make().shapes(checkpoint.config, LLAMA)
        for name, limits in (("min_units", shapes.min_units), ("round_to", shapes.round_to)):
            assert set(limits) <= set(get_args(SiteKind)), f"{name} has kinds of site that there are not: {limits}"
            assert all(isinstance(number, int) and number >= 1 for number in limits.values()), f"{name}: {limits}"
        assert set(shapes.excluded) <= set(get_args(UnitKind)), f"no such kinds of unit: {shapes.excluded}"

    def test_it_refuses_with_words(self) -> None:
        with _example() as checkpoint:
            reason = self.make().refusal(checkpoint)
        assert reason is None or reason.strip(), "an empty reason helps nobody"

    def test_it_writes_where_it_is_told_and_nowhere_else(self) -> None:
        exporter = self.make()
        with _example() as checkpoint, tempfile.TemporaryDirectory() as folder:
            if exporter.refusal(checkpoint) is not None:
                return
            before, out = _contents(checkpoint.path), Path(folder) / f"out{exporter.suffix}"
            if not exporter.suffix:
                out.mkdir()
            try:
                exporter.export(checkpoint, out)
            except BonsaiError:  # what it needs is not installed
                return
            assert _contents(checkpoint.path) == before, "the checkpoint was changed"
            assert [path.name for path in Path(folder).iterdir()] == [out.name], "files were left beside the result"
            assert out.is_file() if exporter.suffix else any(out.iterdir()), "nothing was written"
            assert any(str(out) in command for command in exporter.commands(checkpoint, out)), "no command names it"


@contextmanager
def _example() -> Iterator[Checkpoint]:
    with tempfile.TemporaryDirectory() as folder:
        yield describe(Path(folder), save_example(Path(folder)), LLAMA)


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
