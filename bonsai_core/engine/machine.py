"""Settings that depend on the machine: decided at the start of a run, and stored with it."""

from __future__ import annotations

from collections import defaultdict
from statistics import median_low
from typing import Any

import torch

from bonsai_core.config import RunConfig
from bonsai_core.errors import BonsaiError
from bonsai_core.model.storage.devices import find_device
from bonsai_core.selection.limits import Limit, multiples, suited_multiples
from bonsai_core.sources import with_absolute_paths
from bonsai_core.units import SiteKind, UnitTable
from bonsai_core.upstream import multiplies_bfloat16

CPU_SAMPLES, CUDA_SAMPLES = 64, 512
"""Windows for the prior and the compensator: with more of them the repair fits the text less and the model more."""


def suited_to_machine(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths, and with what was left to the machine filled in.

    The demo model comes quantised, so no type of weights is its own: it gets the one that multiplies fastest.

    Raises:
        BonsaiError: there is no such device.
    """
    device, filled_in = find_device(config.device), dict[str, Any]()
    if config.prior_samples is None:
        filled_in["prior_samples"] = CUDA_SAMPLES if device.type == "cuda" else CPU_SAMPLES
    if config.round_to == "auto":
        filled_in["round_to"] = "cpu" if device.type == "cpu" else "gpu"
    if config.model == "demo" and config.dtype == "auto" and config.load_in == "full" and multiplies_bfloat16(device):
        filled_in["dtype"] = "bfloat16"
    return with_absolute_paths(config).model_copy(update=filled_in)


def other_devices(config: RunConfig) -> list[str]:
    """Devices of this machine, besides the first, that sub-models are measured on: one process each.

    Raises:
        BonsaiError: there are not as many as are wanted.
    """
    if config.executor != "local" or config.weights_elsewhere:
        return []
    device = find_device(config.device)
    if device.type == "cpu":
        return ["cpu"] * ((config.workers or 1) - 1)
    here = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    if (config.workers or 1) > here:
        raise BonsaiError(
            f"--workers {config.workers} needs as many GPUs, and --device {config.device} has {here}. Give fewer, or "
            f"--executor ray with a cluster that has more."
        )
    if here == 1:
        return []
    others = [index for index in range(here) if index != torch.cuda.current_device()]
    return [f"cuda:{index}" for index in others[: (config.workers or here) - 1]]


def multiples_in(config: RunConfig, table: UnitTable) -> Limit[int]:
    """What numbers of units become multiples of, in the model with this unit table."""
    if not isinstance(config.round_to, str):
        return multiples(config.round_to)
    assert config.round_to != "auto"  # see `suited_to_machine`
    widths = defaultdict[SiteKind, list[int]](list)
    for site in table:
        widths[site.kind].append(site.num_units)
    return suited_multiples(config.round_to, {kind: median_low(each) for kind, each in widths.items()})
