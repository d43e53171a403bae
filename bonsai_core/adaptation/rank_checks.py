"""What must hold before several processes adapt a model together."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.passes import Passes
from bonsai_core.adaptation.ranks import Ranks
from bonsai_core.errors import BonsaiError
from bonsai_core.model.storage.devices import find_device
from bonsai_core.rundir.files import partial_of


def check_ranks(config: AdaptConfig, ranks: Ranks, warn: Callable[[str], None]) -> None:
    """Check that every rank has a device of its own and as many windows as the others.

    Raises:
        BonsaiError: it has not.
    """
    device, gpus = find_device(config.device), torch.cuda.device_count()
    if ranks.count == 1:
        if config.shard:
            warn(
                "There is one process, which has all weights, gradients and the optimiser's state, although the "
                "settings say --shard. To shard them: torchrun --nproc-per-node N -m bonsai_core resume ..."
            )
        if device.type == "cuda" and gpus > 1:
            warn(
                f"One of {gpus} GPUs trains. For all, begin with: torchrun --nproc-per-node {gpus} -m bonsai_core "
                f"adapt ...; or go on with: torchrun --nproc-per-node {gpus} -m bonsai_core resume ..."
            )
        return
    Passes.of(config, ranks.count)
    if device.type == "mps":
        raise BonsaiError("The processes of a launcher cannot share an Apple GPU. Start one, or give --device cpu.")
    if device.index is not None:
        raise BonsaiError(f"--device {device}: every process has a GPU of its own, so give --device cuda.")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count))
    if device.type == "cuda" and here > gpus:
        raise BonsaiError(
            f"{here} processes were started on a machine with {gpus} GPUs, and each needs one: start {gpus}, or give "
            f"--device cpu."
        )


def refuse_alone(config: AdaptConfig, ranks: Ranks) -> None:
    """Check that there are several ranks to shard over, before something begins with one.

    Raises:
        BonsaiError: there is one.
    """
    if config.shard and ranks.count == 1:
        raise BonsaiError(
            "--shard spreads a model over the processes of a launcher, and there is one. Start several: torchrun "
            "--nproc-per-node N -m bonsai_core adapt RUN --method full --shard; or leave --shard out."
        )


def check_shared(directory: AdaptDirectory, ranks: Ranks) -> None:
    """Check that all ranks see the first one's directory: it writes a file there, which the others read.

    Raises:
        BonsaiError: they do not, or it cannot be written.
    """
    if ranks.count == 1:
        return
    file, token = partial_of(directory.config_path), ranks.share(lambda: secrets.token_hex(16))
    ranks.share(lambda: _write(directory, file, token))
    seen = ranks.gather(file.is_file() and file.read_text() == token)
    ranks.share(lambda: _remove(directory, file, seen))


def _write(directory: AdaptDirectory, file: Path, token: str) -> None:
    with directory.making():
        directory.path.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # of a process that was killed
        with file.open("x") as new:
            new.write(token)


def _remove(directory: AdaptDirectory, file: Path, seen: list[bool]) -> None:
    file.unlink()
    blind = [str(number) for number, sees in enumerate(seen) if not sees]
    if blind:
        with suppress(OSError):  # it holds something
            directory.path.rmdir()
        raise BonsaiError(
            f"{directory.path} is not the same directory for all {len(seen)} processes: number {', '.join(blind)} "
            f"cannot see what the first one writes there. Give an --out on a file system that all machines share."
        )
