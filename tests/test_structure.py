"""The structure that CONTRIBUTING.md promises, read off the source."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest

import bonsai_core
from bonsai_core import Registry, hookspecs
from bonsai_core.model.sites.table import SITES
from bonsai_core.registry.registry import KINDS
from bonsai_core.units import KINDS_OF_SITE, SiteKind

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "bonsai_core").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins" / "bonsai_plugins").rglob("*.py"))
# From the ground up: a module imports from its own line and from those above it.
LAYERS = [
    {"errors", "display"},
    {"units"},
    {"settings"},
    {"contracts"},
    {"events"},
    {"hookspecs"},
    {"config"},
    {"registry"},
    {"selection"},
    {"rundir"},
    {"pages"},
    {"upstream"},
    {"checkpoint", "sources", "executors"},
    {"model"},
    {"adaptation", "evaluation", "publishing", "runtimes", "tracking"},
    {"engine", "testing"},
    {"sweep", "scaffold", "doctor"},
    {"cli"},
]
PUBLIC_MODULES = ["bonsai_core.events", "bonsai_core.testing"]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# The same within `model`; `causal_lm`, `subject` and `pruned_files` are modules beside the rooms.
MODEL_ROOMS = [
    {"causal_lm"},
    {"structure"},
    {"storage"},
    {"sites"},
    {"subject"},
    {"pruned_files", "forward"},
    {"recognition"},
    {"loading"},
]
MODEL_LEVEL = {name: level for level, names in enumerate(MODEL_ROOMS) for name in names}
WITHOUT_TORCH = [
    "contracts",
    "events",
    "hookspecs",
    "config",
    "registry.registry",
    "registry.recipes",
    "rundir.report",
    "selection.select",
    "selection.swaps",
    "selection.whole_drops",
    "units",
]
SEEDED = {"default_rng", "Generator", "SeedSequence"}
# Settings that are no plugins' names but share words with them: `uniform` is a shape, `full` a method of adaptation.
OTHER_SETTINGS = {"guard_dataset", "shapes", "method", "teacher", "dense", "device_map", "load_in"}
UPSTREAM = {"transformers", "accelerate", "peft", "bitsandbytes"}
PUBLIC = {"transformers.utils.logging"}
STANDARD_LIBRARY = {"_asdict", "_replace", "_Hash"}
HOOKS = {"weights_map", "support_avx512bf16_for_cpu", "model_accepts_loss_kwargs", "all_tied_weights_keys"}
PICKLES = {"pickle", "joblib", "dill", "shelve"}


def trees(files: list[Path]) -> Iterator[tuple[Path, ast.Module]]:
    for file in files:
        yield file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of every import; the name is empty for `import module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def compared(node: ast.AST) -> Iterator[ast.AST]:
    """What a comparison or a case is decided by: its operands, and the elements of those written out."""
    if isinstance(node, ast.match_case):
        yield from ast.walk(node.pattern)
    elif isinstance(node, ast.Compare):
        for operand in (node.left, *node.comparators):
            yield from operand.elts if isinstance(operand, ast.Tuple | ast.List | ast.Set) else (operand,)


def homes() -> dict[str, str]:
    """The module of every public name, as type checkers see it."""
    stub = ast.parse((ROOT / "bonsai_core" / "__init__.pyi").read_text(encoding="utf-8"))
    return {name: module for module, name in imports(stub)}


def part_of_core(module: str, name: str) -> str:
    """The part that an import names, as `bonsai_core.model.loading.load` does; public names have a home."""
    home = module if "." in module else homes().get(name, f"bonsai_core.{name}")
    return home.split(".")[1]


def test_imports_point_down_the_layers() -> None:
    wrong = []
    for path, tree in trees(CORE):
        own = path.with_suffix("").parts[1]
        if own in ("__init__", "__main__"):
            continue
        for module, name in imports(tree):
            if module.split(".")[0] != "bonsai_core" or (module, name) == ("bonsai_core", ""):
                continue
            other = part_of_core(module, name)
            if LEVEL[other] > LEVEL[own]:
                wrong.append(f"{path} imports {other}")
    assert not wrong


def test_imports_point_down_the_rooms_of_the_model() -> None:
    wrong = []
    for path, tree in trees(CORE):
        if path.parts[1] != "model" or path.name == "__init__.py":
            continue
        own = path.with_suffix("").parts[2]
        for module, _ in imports(tree):
            other = module.removeprefix("bonsai_core.model.").split(".")[0]
            if module.startswith("bonsai_core.model.") and MODEL_LEVEL[other] > MODEL_LEVEL[own]:
                wrong.append(f"{path} imports {module}")
    assert not wrong


def test_the_core_does_not_import_plugins() -> None:
    wrong = [f"{path}: {module}" for path, tree in trees(CORE) for module, _ in imports(tree) if "plugins" in module]
    assert not wrong


def test_the_core_does_not_branch_on_a_plugins_name(registry: Registry) -> None:
    names = {offer.name for kind in KINDS for offer in registry.offers(kind)}
    wrong = []
    for path, tree in trees(CORE):
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and ast.unparse(node.left).split(".")[-1] in OTHER_SETTINGS:
                continue
            wrong += [f"{path}: {c.value}" for c in compared(node) if isinstance(c, ast.Constant) and c.value in names]
    assert not wrong


def test_what_a_site_is_is_decided_by_its_class_and_in_the_table_of_kinds() -> None:
    wrong = []
    for path, tree in trees(CORE):
        if path.parts[1:] == ("units.py",) or path.parts[1:3] == ("model", "sites"):
            continue
        for node in ast.walk(tree):
            named = {c.value for c in decided_by(node) if isinstance(c, ast.Constant)} & set(KINDS_OF_SITE)
            # A layer is a whole too, and leaves as such; only that a site is a layer's is a matter of its kind.
            of_site = any(ast.unparse(operand).endswith("site.kind") for operand in decided_by(node))
            if named - {"layer"} or (named and of_site):
                wrong.append(f"{path}:{getattr(node, 'lineno', '')} {ast.unparse(node)}")
    assert not wrong


def decided_by(node: ast.AST) -> Iterator[ast.AST]:
    """What a comparison, a case, an operation on a set or a look-up in a table written out is decided by."""
    yield from compared(node)
    if isinstance(node, ast.BinOp):
        yield from (kind for side in (node.left, node.right) if isinstance(side, ast.Set) for kind in side.elts)
    elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Dict):
        yield from (key for key in node.value.keys if key is not None)


def test_every_kind_of_site_has_a_row_in_both_tables() -> None:
    assert set(get_args(SiteKind)) == set(KINDS_OF_SITE)
    assert set(SITES) == {kind for kind, facts in KINDS_OF_SITE.items() if not facts.leaves_with_layer}
    for kind, model_site in SITES.items():
        assert model_site.kind == kind
        assert not inspect.isabstract(model_site)


def test_no_class_overrides_what_is_implemented() -> None:
    """A class is abstract or final; what may vary is abstract, or another object."""
    classes = [node for _, tree in trees(CORE) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    by_name = {node.name: node for node in classes}

    def ancestors(node: ast.ClassDef) -> Iterator[ast.ClassDef]:
        for base in node.bases:
            above = by_name.get(ast.unparse(base).split("[")[0].split(".")[-1])
            if above is not None:
                yield from (above, *ancestors(above))

    wrong = []
    for node in classes:
        for above in ancestors(node):
            overridden = set(methods(node)) & {name for name, abstract in methods(above).items() if not abstract}
            wrong += [f"{node.name} overrides {above.name}.{name}" for name in overridden - {"__init__"}]
    assert not wrong


def methods(node: ast.ClassDef) -> dict[str, bool]:
    """The methods that a class defines, and whether each is abstract."""
    return {
        item.name: any(ast.unparse(decorator) == "abstractmethod" for decorator in item.decorator_list)
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    }


def test_plugins_import_only_the_public_names_of_the_core() -> None:
    public = {"bonsai_core": bonsai_core.__all__, **{name: dir(import_module(name)) for name in PUBLIC_MODULES}}
    wrong = []
    for path, tree in trees(PLUGINS):
        for module, name in imports(tree):
            if module.split(".")[0] == "bonsai_core" and name not in public.get(module, ()):
                wrong.append(f"{path}: from {module} import {name}")
    assert not wrong


def test_public_names_resolve() -> None:
    assert set(bonsai_core.__all__) == set(homes())
    for name, home in homes().items():
        assert getattr(bonsai_core, name) is getattr(import_module(home), name)
    assert bonsai_core.__version__ == version("bonsai-prune")
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(bonsai_core, "no_such_name")  # noqa: B009


def test_the_guide_lists_what_is_public() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Public names")[1].split("\n## ")[0]
    written = set(re.findall(r"`([\w.]+)`", guide))
    assert not set(bonsai_core.__all__) - written
    assert written >= set(PUBLIC_MODULES)


def test_the_guide_lists_the_rooms_from_the_ground_up() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| room | holds |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert {room for row in rows for room in row} == set(LEVEL)
    levels = [LEVEL[room] for row in rows for room in row]
    assert levels == sorted(levels)


def test_every_hook_is_in_the_contributing_guide() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    specifications = [name for name in vars(hookspecs) if name.startswith("bonsai_")]
    assert len(specifications) == len(KINDS) + 1
    assert not [name for name in specifications if name not in guide]


def test_torch_is_loaded_only_where_it_is_needed() -> None:
    modules = ", ".join(f"bonsai_core.{name}" for name in WITHOUT_TORCH)
    plugins = "bonsai_plugins.samplers, bonsai_plugins.estimators"
    code = f"import sys, {modules}, {plugins}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_private_upstream_is_used_in_one_module() -> None:
    wrong = []
    for path, tree in trees(CORE):
        if path.name in ("upstream.py", "modeling_bonsai.py"):
            continue  # the second is copied into checkpoints, where it stands alone
        for module, name in imports(tree):
            if module.split(".")[0] in UPSTREAM and f"{module}.{name}" not in PUBLIC:
                inner = [*module.split(".")[1:], name]
                if len(inner) > 1 or inner[0].startswith("_"):
                    wrong.append(f"{path}: from {module} import {name}")
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        own |= {node.attr for node in attributes if ast.unparse(node.value) in ("self", "cls")}
        for node in attributes:
            foreign = node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in own
            if (foreign and node.attr not in STANDARD_LIBRARY) or node.attr in HOOKS:
                wrong.append(f"{path}: {ast.unparse(node)}")
    assert not wrong


def test_no_global_random_numbers() -> None:
    wrong = []
    for path, tree in trees(CORE + PLUGINS):
        if path.parts[1] == "testing":
            continue  # the contracts seed the global generators to see whether anybody reads them
        wrong += [f"{path}: import random" for module, _ in imports(tree) if module == "random"]
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            library, _, name = text.partition(".random.")
            drawn = library in ("np", "numpy") and name.isidentifier() and name not in SEEDED
            seeded = text in ("torch.manual_seed", "torch.seed")
            if seeded and path.parts[1] == "adaptation":
                # Dropout and peft's initialisation know only the global generator, which is put back afterwards.
                assert "torch.random.fork_rng(" in (ROOT / path).read_text(encoding="utf-8")
            elif drawn or seeded:
                wrong.append(f"{path}: {text}")
    assert not wrong


def test_no_pickle_is_written_or_read() -> None:
    wrong = []
    for path, tree in trees(CORE + PLUGINS):
        wrong += [f"{path}: {module}" for module, _ in imports(tree) if module in PICKLES]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.save", "torch.load"):
                wrong.append(f"{path}: {ast.unparse(node)}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant)
                assert node.value.value is False, path
    assert not wrong
