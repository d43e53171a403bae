"""A connection to Ray, and what `bonsai doctor` says of a cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from conftest import optional

from bonsai_core import BonsaiError
from bonsai_core.doctor.cluster import cluster
from bonsai_core.executors.ray_cluster import ray_cluster

RAY = find_spec("ray")
needs_ray = optional(RAY, "Ray is not installed")
# In a process of its own, since where Ray listens is decided when it is first imported.
LOOK = """
import json
import sys
from dataclasses import asdict
from importlib import metadata

import psutil

from bonsai_core.doctor.cluster import cluster
from bonsai_core.executors.ray_cluster import ray_cluster


def found(address="auto"):
    return [asdict(finding) for finding in cluster(address)]


unasked, imported = found(None), "ray" in sys.modules
with ray_cluster(None) as ray:
    same, running = found(), found(None)
    address = ray.get_runtime_context().gcs_address
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr.ip for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    here = metadata.version
    metadata.version = lambda name: "0.1.9" if name in ("bonsai-prune", "torch") else here(name)
    other = found()
    metadata.version = lambda name: "2.0.1" if name == "torch" else here(name)
    torch_alone = found()
left = [p for p in processes[1:] if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
names = "unasked imported same running address listening other torch_alone left".split()
print(json.dumps({name: globals()[name] for name in names}, default=str))
"""
JOIN = """
import json
import sys

from bonsai_core.errors import BonsaiError
from bonsai_core.executors.ray_cluster import ray_cluster

try:
    with ray_cluster(sys.argv[1]):
        pass
except BonsaiError as error:
    print(json.dumps({"error": str(error)}))
"""


def run_python(code: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What a process prints as the last line of its output."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def looked() -> dict[str, Any]:
    """What a process with a private cluster found."""
    return run_python(LOOK)


@needs_ray
def test_a_private_cluster_listens_on_loopback_alone_and_ends(looked: dict[str, Any]) -> None:
    assert len(looked["listening"]) > 4
    addresses = [ip_address(address) for address in looked["listening"]]
    assert all((getattr(each, "ipv4_mapped", None) or each).is_loopback for each in addresses), looked["listening"]
    assert looked["left"] == []


@needs_ray
def test_without_an_address_ray_is_not_even_imported(looked: dict[str, Any]) -> None:
    assert not looked["imported"]
    assert {finding["grade"] for finding in looked["unasked"]} == {"ok"}
    assert looked["address"] not in {finding["name"] for finding in looked["unasked"]}
    assert looked["address"] in {finding["name"] for finding in looked["running"]}


@needs_ray
def test_a_cluster_that_answers_is_described_node_by_node(looked: dict[str, Any]) -> None:
    whole, node = looked["same"]
    assert (whole["name"], whole["grade"], node["grade"]) == ("auto", "ok", "ok")
    assert whole["found"].startswith("answers: 1 node, ")
    assert "CPU" in node["found"]
    assert node["found"].endswith("GB for objects; the same versions as here")


@needs_ray
def test_a_node_with_other_versions_is_told_of_with_what_to_install(looked: dict[str, Any]) -> None:
    there = {name: metadata.version(name).partition("+")[0] for name in ("bonsai-prune", "torch")}
    _, node = looked["other"]
    assert node["grade"] == "broken"
    assert f"bonsai-prune {there['bonsai-prune']} (here 0.1.9), torch {there['torch']} (here 0.1.9)" in node["found"]
    assert node["advice"] == "In the environment of that node: pip install bonsai-prune==0.1.9 torch==0.1.9"
    _, node = looked["torch_alone"]
    assert node["grade"] == "note"
    assert node["advice"] == "In the environment of that node: pip install torch==2.0.1"


@needs_ray
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "Nothing answers at --ray-address 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "write auto, or HOST:PORT of the head node"),
        ("7", "write auto, or HOST:PORT of the head node"),
    ],
)
def test_an_address_at_which_nothing_answers_is_broken(address: str, words: str) -> None:
    (finding,) = cluster(address)
    assert (finding.name, finding.found, finding.grade) == (address, "does not answer", "broken")
    assert words in finding.advice


@needs_ray
def test_a_cluster_is_not_joined_without_a_token(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = run_python(JOIN, address, env={**environment, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"})
    assert done["error"].startswith(f"There is no token for the Ray cluster at '{address}'.")
    assert "RAY_AUTH_TOKEN" in done["error"]


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert not list(cluster(None))
    (finding,) = cluster("auto")
    assert finding.grade == "broken"
    assert "pip install 'bonsai-prune[ray]'" in finding.advice
    with pytest.raises(BonsaiError, match="Ray is not installed"), ray_cluster(None):
        pass
