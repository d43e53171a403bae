"""Where a model's weights are put: whole on one device, or spread over several, the CPU and the disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch

from bonsai_core.errors import BonsaiError, shortened, shown
from bonsai_core.model.causal_lm import CausalLM
from bonsai_core.settings.common import LoadingSettings
from bonsai_core.settings.types import memory_limits
from bonsai_core.upstream import quiet_products

LoadIn = Literal["full", "8bit", "4bit"]
DeviceMap = Literal["none", "auto"]


@dataclass(frozen=True)
class Placement:
    """How a model's weights are held in memory, and where; the attributes are arguments of `load_model`.

    Attributes:
        placed: devices, "cpu" or "disk" by the names of all modules; None to leave that to `device_map`.
    """

    dtype: str = "auto"
    device: str = "auto"
    load_in: LoadIn = "full"
    device_map: DeviceMap = "none"
    max_memory: str | None = None
    placed: Mapping[str, str] | None = None

    @classmethod
    def of(cls, config: LoadingSettings) -> Placement:
        """As configured."""
        return cls(config.dtype, config.device, config.load_in, config.device_map, config.max_memory)


def find_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes CUDA, else MPS, else the CPU.

    Raises:
        BonsaiError: torch does not know the name, or has no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta" or str(device) != name:  # torch wraps numbers that are too large
            raise RuntimeError("no model can run there")
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch raises all three, by the kind of device
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            here.append("mps")
        reason = shortened((str(error).splitlines() or ["it is not known"])[0]).rstrip(".")
        raise BonsaiError(f"The device {shown(name)} cannot be used: {reason}. Available: {', '.join(here)}.") from None
    return device


def loading_options(placement: Placement, place: torch.device) -> dict[str, Any]:
    """The arguments of `from_pretrained` for a placement on a device.

    Raises:
        BonsaiError: bitsandbytes is needed and not installed, or the limits of memory cannot be read.
    """
    load_in, max_memory = placement.load_in, placement.max_memory
    if place == torch.device("cuda"):  # weights are loaded by threads, whose current device is the first one
        place = torch.device("cuda", torch.cuda.current_device())
    options: dict[str, Any] = {"device_map": {"": place}} if place.type == "cuda" or load_in != "full" else {}
    if load_in != "full":
        if find_spec("bitsandbytes") is None:
            raise BonsaiError(
                "--load-in needs bitsandbytes, which is not installed: pip install 'bonsai-prune[quantized]'."
            )
        from transformers import BitsAndBytesConfig

        quiet_products()
        default = "bfloat16" if place.type == "cuda" else "float32"
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=load_in == "8bit",
            load_in_4bit=load_in == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, default if placement.dtype == "auto" else placement.dtype),
        )
    if placement.placed is not None:
        options |= {"device_map": dict(placement.placed), "offload_folder": _offload_folder()}
    elif placement.device_map == "auto":
        limits = None if max_memory is None else _limits(max_memory)
        options |= {
            "device_map": "auto",
            "max_memory": limits,
            "offload_folder": _offload_folder(),
        }
    return options


def _limits(max_memory: str) -> dict[int | str, str]:
    """What accelerate may use, of devices that are there."""
    try:
        limits = memory_limits(max_memory)
    except ValueError as error:
        raise BonsaiError(f"--max-memory {shown(max_memory)}: {error}.") from None
    there = torch.accelerator.device_count()
    missing = [str(device) for device in limits if isinstance(device, int) and device >= there]
    if missing:
        raise BonsaiError(
            f"--max-memory {shown(max_memory)} names GPU {', '.join(missing)}; the number of GPUs here is {there}. "
            f"Leave it out, as in --max-memory cpu=20GiB."
        )
    return limits


def _offload_folder() -> str:
    return tempfile.mkdtemp(prefix="bonsai-offload-")


def remove_offloaded(options: dict[str, Any]) -> None:
    """Remove what was written to disk for a model that is gone, or that did not load."""
    if "offload_folder" in options:
        shutil.rmtree(options["offload_folder"], ignore_errors=True)


def input_device(model: CausalLM) -> torch.device:
    """Where a model's inputs go: weights may be elsewhere until they are needed."""
    placed = getattr(model, "hf_device_map", None)
    if not placed:
        return next(model.parameters()).device
    first = next((where for where in placed.values() if where not in ("cpu", "disk")), "cpu")
    return torch.device(first)
