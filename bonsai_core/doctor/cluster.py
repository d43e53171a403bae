"""Whether a Ray cluster answers, and whether its nodes have what this machine has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import psutil

from bonsai_core.doctor.finding import Finding
from bonsai_core.doctor.machine import gigabytes
from bonsai_core.doctor.packages import OURS
from bonsai_core.errors import BonsaiError
from bonsai_core.executors.crew import first_line
from bonsai_core.executors.ray_cluster import on_node, ray_cluster

SAME = (OURS, "torch", "transformers")
"""Packages that a node needs in the versions of this machine, beside Python and Ray, which Ray compares itself."""
TIMEOUT_S = 60.0
"""In which a node has to do a task without work."""
TOPIC = "Ray cluster"
LOGS = "Its logs are in /tmp/ray/session_latest/logs on that node, unless --temp-dir says otherwise."


def cluster(address: str | None) -> Iterator[Finding]:
    """What a Ray cluster offers, by asking each of its nodes; without an address, only whether this machine runs Ray.

    Args:
        address: ``auto`` or HOST:PORT, as --ray-address has it.
    """
    if address is None:
        yield from _of_this_machine() if find_spec("ray") else ()
        return
    try:
        with ray_cluster(address) as ray:
            yield from _nodes(ray, address)
    except BonsaiError as error:
        yield Finding(TOPIC, address, "does not answer", "broken", str(error))


def _of_this_machine() -> Iterator[Finding]:
    """Nodes of Ray, by their processes: nothing is imported, asked or started."""
    running = [each.info for each in psutil.process_iter(["name", "cmdline"]) if each.info["name"] == "raylet"]
    words = [word for each in running for word in each["cmdline"] or ()]
    for address in sorted({word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}):
        advice = f"bonsai doctor --ray-address {address} asks it."
        yield Finding(TOPIC, address, "has a node on this machine", advice=advice)
    if not running:
        yield Finding(TOPIC, "this machine", "runs none; without --ray-address, Bonsai starts a private one")


def _nodes(ray: Any, address: str) -> Iterator[Finding]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total: Counter[str] = Counter()
    for node in nodes:
        total.update(node["Resources"])
    yield Finding(TOPIC, address, f"answers: {_count(len(nodes), 'node')}, {_offer(total)}")
    tasks = {_task(ray, node["NodeID"]): node for node in nodes}
    done, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=TIMEOUT_S)
    here = _looker()(SAME)
    for task, node in tasks.items():
        name, offer = node["NodeManagerHostname"] or node["NodeManagerAddress"], _offer(node["Resources"])
        if task not in done:
            found = f"{offer}; did nothing within {TIMEOUT_S:.0f} s"
            yield Finding(TOPIC, name, found, "broken", f"`ray status` says what the cluster is busy with. {LOGS}")
            continue
        try:
            there = ray.get(task)
        except ray.exceptions.RayError as error:  # the node died, or its Python cannot start
            yield Finding(TOPIC, name, f"{offer}; a task failed: {first_line(error)}", "broken", LOGS)
        else:
            yield _compared(name, offer, here, there)


def _task(ray: Any, node: str) -> Any:
    """The versions on one node, however busy it is."""
    looker = ray.remote(_looker()).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node))
    return looker.remote(SAME)


def _looker() -> Callable[[tuple[str, ...]], dict[str, str]]:
    """A function that travels as it is, so that it runs where Bonsai is not installed."""

    def look(names: tuple[str, ...]) -> dict[str, str]:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        found = {"Python": platform.python_version()}
        for name in names:
            try:
                found[name] = version(name).partition("+")[0]  # builds for a CPU and for a GPU are one version
            except PackageNotFoundError:
                found[name] = ""
        return found

    return look


def _compared(name: str, offer: str, here: Mapping[str, str], there: Mapping[str, str]) -> Finding:
    other = {each: version for each, version in there.items() if version != here[each]}
    if not other:
        return Finding(TOPIC, name, f"{offer}; the same versions as here")
    words = ", ".join(f"{each} {version or 'is missing'} (here {here[each]})" for each, version in other.items())
    refused = OURS in other or "" in other.values()
    wanted = " ".join(f"{each}=={here[each]}" for each in other if each != "Python")
    advice = (
        f"In the environment of that node: pip install {wanted}"
        if wanted
        else f"Start it with Python {here['Python']}."
    )
    return Finding(TOPIC, name, f"{offer}; {words}", "broken" if refused else "note", advice)


def _offer(resources: Mapping[str, float]) -> str:
    """What a node, or all of them, can be asked for."""
    kinds = sorted(name.partition(":")[2] for name in resources if name.startswith("accelerator_type:"))
    gpus = _count(resources.get("GPU", 0), "GPU") + (f" ({', '.join(kinds)})" if kinds else "")
    store = gigabytes(resources.get("object_store_memory", 0))
    return f"{_count(resources.get('CPU', 0), 'CPU')}, {gpus}, {store} for objects"


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'s' * (number != 1)}"
