"""The files in docs/examples that start Ray: the job for Slurm on this machine, the one for Kubernetes as data."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from test_docs import parse

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
# In place of Slurm, Ray and us. Each notes what it is asked for; a head listens, as Ray's does.
PROGRAMS = {
    "scontrol": "echo localhost; echo other",
    "srun": 'echo "$@" >>srun.txt; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": """
echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN $@" >>ray.txt; echo $$ >>pids.txt
for word in "$@"; do [[ $word == --port=* ]] && exec python listen.py "${word#--port=}"; done
exec sleep 600""",
    "bonsai": """
echo "$CUDA_VISIBLE_DEVICES $RAY_AUTH_MODE $RAY_AUTH_TOKEN $@" >>bonsai.txt
until [[ $(wc -l <ray.txt) == "$SLURM_JOB_NUM_NODES" ]]; do sleep 0.1; done
exit $STATUS""",
}
LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""


def slurm(folder: Path, nodes: int, status: int) -> tuple[int, int]:
    """Run the script as a job on this machine; its exit status, where the command has one, and the head's port."""
    programs = folder / "bin"
    programs.mkdir()
    for name, code in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{code}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    (folder / "listen.py").write_text(LISTEN, encoding="utf-8")
    port = next(port for port in range(20_000 + os.getpid() % 5_000, 30_000) if is_free(port))
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "STATUS": str(status),
        "SLURM_JOB_ID": str(port + 50_000),
        "SLURM_JOB_NODELIST": "nodes",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_GPUS_ON_NODE": "8",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    }
    command = ["bash", str(EXAMPLES / "slurm.sh")]
    return subprocess.run(command, cwd=folder, env=environment, timeout=60).returncode, port


def is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("nodes", "status"), [(1, 0), (2, 3)])
def test_a_slurm_job_starts_ray_on_its_nodes_runs_the_command_and_ends_all(
    nodes: int, status: int, tmp_path: Path
) -> None:
    ended, port = slurm(tmp_path, nodes, status)
    assert ended == status
    (command,) = lines(tmp_path / "bonsai.txt")
    gpu, mode, token, *words = shlex.split(command)
    assert (gpu, mode, len(token)) == ("7", "token", 64)
    assert words[words.index("--ray-address") + 1] == f"localhost:{port}"
    parse(words)
    started = [line.split() for line in lines(tmp_path / "ray.txt")]
    assert len(started) == nodes
    assert all(words[:2] == ["token", token] for words in started)
    assert all({"--block", "--disable-usage-stats", "--num-cpus=4"} <= set(words) for words in started)
    assert {"--head", f"--port={port}", "--include-dashboard=false", "--num-gpus=7"} <= set(started[0])
    assert all({f"--address=localhost:{port}", "--num-gpus=8"} <= set(words) for words in started[1:])
    assert not [words for words in started[1:] if "--head" in words]
    on_head, *on_others = lines(tmp_path / "srun.txt")
    assert "--nodelist=localhost" in on_head
    assert all("--exclude=localhost" in line and f"--nodes={nodes - 1}" in line for line in on_others)
    assert not [pid for pid in lines(tmp_path / "pids.txt") if psutil.pid_exists(int(pid))]


def test_a_slurm_job_that_is_submitted_again_resumes_the_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "8b-30").mkdir(parents=True)
    assert slurm(tmp_path, 1, 0)[0] == 0
    (command,) = lines(tmp_path / "bonsai.txt")
    words = shlex.split(command)[3:]
    assert words[:2] == ["resume", "runs/8b-30"]
    parse(words)


def test_the_kubernetes_job_has_what_kuberay_asks_for() -> None:
    job = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "bonsai"
    parse(words)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        # What the resource definitions of ray.io/v1 require, and the types that they have.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) > 0
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["groupName"]
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
    assert len(images) == 1, "all nodes need the same versions"
