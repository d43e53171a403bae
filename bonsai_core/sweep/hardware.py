"""The machines that the runs of a sweep were executed on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bonsai_core.model.storage.device_name import processor_name


def hardware() -> dict[str, Any]:
    """This machine: its ``cpu`` and ``cores``, and its ``gpu`` or None."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": processor_name(), "cores": os.cpu_count(), "gpu": gpu}


def joined(machines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One description of machines, of which there is one at least; what they differ in has semicolons between."""
    values = {name: list(dict.fromkeys(machine[name] for machine in machines)) for name in machines[0]}
    return {
        name: each[0] if len(each) == 1 else "; ".join("none" if one is None else str(one) for one in each)
        for name, each in values.items()
    }
