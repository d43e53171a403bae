"""A connection to Ray: to a cluster that the user names, or to a private one on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bonsai_core.errors import BonsaiError, shown
from bonsai_core.executors.crew import first_line

AUTO = "auto"
CONNECT_S = 10.0
"""A head node that does not accept a connection in this time is not there; Ray itself would try for minutes."""
TOKEN = (
    "If the cluster asks for a token, set RAY_AUTH_MODE=token, and have the token in RAY_AUTH_TOKEN or in "
    "~/.ray/auth_token: `ray get-auth-token` prints it on the head node."
)
MISSING = "Ray is not installed, which --executor ray needs: pip install 'bonsai-prune[ray]'."


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected while the context lasts; where this process is connected already, as it is.

    Args:
        address: ``auto`` for the cluster of this machine, or HOST:PORT of its head node; None for a private one that
            has this machine's CPUs and GPUs, listens on loopback alone, has no dashboard, and ends with the context.

    Raises:
        BonsaiError: Ray is not installed, there is no such cluster, or it does not accept our token.
    """
    ray = _ray(private=address is None)
    if ray.is_initialized():
        yield ray
        return
    if address not in (None, AUTO):
        _check_address(address)
    settings: dict[str, Any] = {"address": address}
    if address is None:
        settings = {"address": "local", "include_dashboard": False}
    try:
        ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError as error:
        raise BonsaiError(f"There is no token for the Ray cluster at {shown(address)}. {TOKEN}") from error
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise BonsaiError(
            f"No Ray cluster at {shown(address or 'this machine')} ({first_line(error)}). Start one with "
            f"`ray start --head`, name its HOST:PORT with --ray-address, or leave the option out for a private one. "
            f"{TOKEN}"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def on_node(node: str) -> Any:
    """Where a task or an actor is placed: on the node of this id and nowhere else. Ray has to be connected."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def check_ray(address: str | None) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        BonsaiError: Ray is not installed, or nothing answers at the address.
    """
    _ray(private=address is None)
    if address not in (None, AUTO):
        _check_address(address)


def _ray(*, private: bool) -> Any:
    """The module, told to send nothing about its use. A cluster that it starts asks for a token by itself.

    Args:
        private: whether this machine alone is to be listened to, as Ray does by itself on macOS and Windows. It holds
            only if the process has not imported Ray before.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if private:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise BonsaiError(MISSING) from None
    return ray


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and "/" not in host):
        raise BonsaiError(
            f"--ray-address {shown(address)}: write auto, or HOST:PORT of the head node, as in node7:6379."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise BonsaiError(
            f"Nothing answers at --ray-address {address} ({getattr(error, 'strerror', None) or error}). It is the "
            f"address that `ray start --head` prints; its port is 6379 unless --port says otherwise."
        ) from None
