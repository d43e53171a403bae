"""`bonsai doctor`: what it says of a sound installation, and of each kind of fault."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

from bonsai_core import Recipe, Registry, hookimpl
from bonsai_core.cli.main import cli
from bonsai_core.doctor.finding import Finding
from bonsai_core.doctor.hub import hub
from bonsai_core.doctor.machine import devices, disks, memory
from bonsai_core.doctor.offers import environment, plugins, runtimes
from bonsai_core.doctor.packages import extras, import_faults, packages
from bonsai_core.doctor.trial import trials

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution of metadata alone, in front of all others."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, version: str, *lines: str, entry_points: str = "") -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        headers = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
        (folder / "METADATA").write_text("\n".join(headers) + "\n")
        (folder / "entry_points.txt").write_text(entry_points)

    return install


def faults(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.grade != "ok"]


def test_a_sound_installation_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BONSAI_CACHE", str(tmp_path))
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert not result["broken"]
    found = {(each["topic"], each["name"]): each for each in result["findings"]}
    assert found["packages", "torch"]["grade"] == "ok"
    assert found["devices", "CPU"]["grade"] == "ok"
    assert found["environment", "BONSAI_CACHE"]["found"] == str(tmp_path)
    assert found["plugins", "bonsai-prune"]["grade"] == "ok"
    assert found["extras", "test"]["grade"] == "ok"
    assert found["runtimes", "transformers (hf)"]["found"] == "can be written, run and verified"
    assert found["trial run", "cpu"]["grade"] == "ok"
    assert ("hub", "huggingface.co") not in found


def test_what_is_missing_or_too_old_comes_with_a_command(install: Install) -> None:
    install(
        "bonsai-prune",
        "0.2.0",
        "Requires-Python: >=99",
        "Requires-Dist: pluggy>=1.5",
        "Requires-Dist: no-such-package>=2",
        "Requires-Dist: not-here; python_version < '3'",
        "Requires-Dist: bonsai-prune[more]; extra == 'all'",
        "Requires-Dist: no-such-extra<3,>=2; extra == 'more'",
        "Requires-Dist: pluggy>=1.5; extra == 'few'",
        "Provides-Extra: all",
        "Provides-Extra: more",
        "Provides-Extra: few",
    )
    install("pluggy", "0.1")
    found = {finding.name: finding for finding in faults(packages())}
    assert set(found) == {"Python", "pluggy", "no-such-package"}
    assert {finding.grade for finding in found.values()} == {"broken"}
    assert found["pluggy"].found == "is 0.1 (>=1.5)"
    assert found["no-such-package"].advice == f"{sys.executable} -m pip install 'no-such-package>=2'"
    missing = {finding.name: finding for finding in faults(extras())}
    assert {name: finding.found for name, finding in missing.items()} == {
        "all": "no-such-extra is not installed",  # as it stands for more
        "more": "no-such-extra is not installed",
        "few": "pluggy is 0.1",
    }
    assert {finding.grade for finding in missing.values()} == {"missing"}
    assert missing["more"].advice == f"{sys.executable} -m pip install 'bonsai-prune[more]'"


def test_packages_that_cannot_be_imported_are_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(import_faults())
    (tmp_path / "transformers.py").write_text("raise OSError('built for another machine')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "transformers")
    (fault,) = import_faults()
    assert (fault.name, fault.grade) == ("transformers", "broken")
    assert "OSError: built for another machine" in fault.found


def test_a_plugin_that_fails_is_broken_and_named(install: Install) -> None:
    install("bonsai-bad", "1.0", entry_points="[bonsai]\nbad = no_such_module\n")
    (fault,) = faults(plugins(Registry()))
    assert fault.grade == "broken"
    assert fault.name.startswith("bonsai-bad")
    assert fault.advice == "Update or uninstall bonsai-bad; the others work without it."


def test_a_name_that_two_plugins_offer_is_broken() -> None:
    registry = Registry()
    for module in ("one", "two"):
        plugin = ModuleType(module)
        plugin.bonsai_recipes = hookimpl(_recipes)  # type: ignore[attr-defined]
        registry.register(plugin, f"bonsai-{module} (entry point)")
    (fault,) = faults(plugins(registry))
    assert (fault.name, fault.grade) == ("recipe twice", "broken")
    assert "bonsai-one and bonsai-two" in fault.found


def test_plugins_are_counted_by_package() -> None:
    registry, plugin = Registry(points=[]), ModuleType("one")
    plugin.bonsai_recipes = hookimpl(_recipes)  # type: ignore[attr-defined]
    registry.register(plugin, "bonsai-one (entry point)")
    assert [(finding.name, finding.found) for finding in plugins(registry)] == [("bonsai-one", "1 plugin")]


def _recipes() -> list[Recipe]:
    return [Recipe(name="twice", summary="", settings={})]


def test_runtimes_say_what_is_missing(monkeypatch: pytest.MonkeyPatch, registry: Registry, tmp_path: Path) -> None:
    monkeypatch.setenv("BONSAI_LLAMA_CPP", str(tmp_path / "gone"))
    (llama,) = (finding for finding in runtimes(registry) if finding.name == "llama.cpp (gguf)")
    assert llama.grade == "missing"
    assert "gone, where llama.cpp should be, is not a directory" in llama.advice
    assert ("BONSAI_LLAMA_CPP", str(tmp_path / "gone")) in {(each.name, each.found) for each in environment()}


def test_variables_that_may_hold_secrets_are_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "BONSAI_TRACKER": "mlflow",
        "BONSAI_TRACKER_URI": "https://example.org/hunter2",
        "BONSAI_ADAPT_TRACKER_URI": "https://ann:hunter2@example.org",
        "BONSAI_DATASET": "https://ann:hunt@er2@example.org/text.txt",
        "BONSAI_ADAPT_TOKENS": "2000",
        "BONSAI_SOMETHING": "hunter2",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = {each.name: each.found for each in environment()}
    assert {name: found[name] for name in given} == {
        "BONSAI_TRACKER": "mlflow",
        "BONSAI_TRACKER_URI": "is set",
        "BONSAI_ADAPT_TRACKER_URI": "is set",
        "BONSAI_DATASET": "https://...@example.org/text.txt",
        "BONSAI_ADAPT_TOKENS": "2000",
        "BONSAI_SOMETHING": "is set",
    }


def test_gpus_come_with_their_memory_or_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_gpu(index: int) -> tuple[int, int]:
        if index == 1:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy")
        return 70_000_000_000, 80_000_000_000

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: SimpleNamespace(name=f"GPU {index}"))
    monkeypatch.setattr("torch.cuda.mem_get_info", of_gpu)
    _, good, bad = devices()
    assert (good.name, good.found, good.grade) == ("cuda:0", "GPU 0, 70.0 GB of 80.0 GB free", "ok")
    assert (bad.name, bad.grade) == ("cuda:1", "broken")
    assert "are busy" in bad.found


def test_a_container_has_the_memory_that_it_may_use(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("2900000000\n")
    (finding,) = memory(tmp_path)
    assert finding.found == "0.1 GB of 3.0 GB free of this container"
    assert finding.grade == "note"
    (tmp_path / "memory.max").write_text("max\n")
    assert "container" not in next(memory(tmp_path)).found


def test_folders_that_cannot_be_written_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONSAI_CACHE", "/proc/bonsai")
    (fault,) = (finding for finding in faults(disks()) if finding.name == "cache of Bonsai")
    assert fault.advice == "BONSAI_CACHE names another folder."


def test_a_trial_that_fails_is_broken() -> None:
    (fault,) = faults(trials(Registry(())))  # without plugins
    assert fault.grade == "broken"
    assert "UnknownNameError: There is no" in fault.found


class _Hub(BaseHTTPRequestHandler):
    def __init__(self, status: int, *arguments: object) -> None:
        self._status = status
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.send_response(self._status)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A hub on this machine that answers with a status."""
    with HTTPServer(("127.0.0.1", 0), partial(_Hub, request.param)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://user:secret@127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("served", "grade", "words"),
    [(200, "ok", "answers"), (503, "note", "answers with status 503")],
    indirect=["served"],
)
def test_the_hub_is_asked(served: HTTPServer, grade: str, words: str) -> None:
    (finding,) = hub()
    assert (finding.grade, finding.found) == (grade, words)
    assert "secret" not in str(finding)
