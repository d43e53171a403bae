"""A whole run of pruning, and what it takes."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cost_watch import RoundCost, Watch
from safetensors import safe_open

from bonsai_core import Registry, RunConfig
from bonsai_core.engine.finish import finish
from bonsai_core.engine.job import Job
from bonsai_core.engine.lifecycle import CHECKED
from bonsai_core.engine.machine import suited_to_machine
from bonsai_core.engine.setup import open_job
from bonsai_core.events import Stage
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.ledger import Ledger, Step


@dataclass(frozen=True)
class Pruned:
    """What a run takes.

    Attributes:
        parameters: of the dense model.
        layers: of the dense model.
        forward_tokens: of the whole run.
        measured_tokens: of its sub-models.
        seconds: by stage, as its report has them.
        measure_s: of the sub-models' stage, in which their repairs are computed.
        rounds: each round alone.
        run_s: of the whole run without loading, saving and verifying.
        chunk_tokens: of one call of a layer, as the run chose it.
        batch_tokens: of the sub-models that went through the layers together.
        peak_bytes: of the process, before the checkpoint is written.
        stated_bytes: see `stated_bytes`.
        measure_bytes: by which resident memory grew while sub-models were measured.
        scratch_bytes: the most that was on disk beside the checkpoint.
        kept_units: by site.
        weights_rms: root mean square of the pruned weights.
    """

    parameters: int
    layers: int
    forward_tokens: int
    measured_tokens: int
    seconds: dict[str, float]
    measure_s: float
    rounds: list[RoundCost]
    run_s: float
    chunk_tokens: int
    batch_tokens: int
    peak_bytes: int
    stated_bytes: int
    measure_bytes: int
    scratch_bytes: int
    kept_units: dict[str, list[int]]
    weights_rms: float


def pruned(settings: Mapping[str, Any]) -> Pruned:
    """Prune a model; what that leaves on disk is removed.

    Args:
        settings: of the run.
    """
    with tempfile.TemporaryDirectory(prefix="bonsai-cost-") as folder:
        tempfile.tempdir = folder  # weights that the run moves to disk are scratch too
        given = {**settings, "latency": False, "out": Path(folder) / "run"}
        config = suited_to_machine(RunConfig.from_mapping(given, "the options"))
        registry, watch = Registry(), Watch(Path(folder))
        registry.register(watch, "the benchmark")
        job = open_job(config, registry, registry.observe)
        watch.fetches = job.lockstep.fetches
        directory = RunDirectory(Path(folder) / "run")
        with watch.looking(), directory.begin(config, registry.observe) as journal:
            ledger = Ledger(directory, journal, registry.observe)
            ledger.check_identity(Step("run"), job.identity(), CHECKED)
            start = time.perf_counter()
            report = finish(job, ledger)
            run_s = time.perf_counter() - start
            by_key = {key: seconds for key, _, seconds in journal.items()}
        sub_model = job.calibration.data[0].num_tokens
        return Pruned(
            parameters=report["parameters"]["dense"],
            layers=len(report["layers"]),
            forward_tokens=report["forward_tokens"],
            measured_tokens=watch.tokens[Stage.MEASURE],
            seconds=report["seconds"],
            measure_s=sum(seconds for key, seconds in by_key.items() if "/submodels-" in key),
            rounds=watch.rounds,
            run_s=run_s - by_key["save"] - by_key["verify"],
            chunk_tokens=job.lockstep.chunks.tokens,
            batch_tokens=min(job.submodels_at_once(job.calibration.data[0]), config.submodels) * sub_model,
            peak_bytes=report["memory"]["peak_bytes"],
            stated_bytes=stated_bytes(job),
            measure_bytes=watch.measure_bytes,
            scratch_bytes=watch.scratch_bytes,
            kept_units=_kept_units(directory.model_path),
            weights_rms=_root_mean_square(directory.model_path),
        )


def stated_bytes(job: Job) -> int:
    """What a run may hold beside inference, as docs/scale.md says it.

    The hidden states of its lanes; second moments, one layer's or all; and four float64 copies of the largest of them,
    while a site is ranked or repaired.
    """
    sub_model, prior = job.calibration.data[0].num_tokens, job.calibration.prior_RNT[0].size
    lanes = min(job.submodels_at_once(job.calibration.data[0]), job.config.submodels) * sub_model
    tokens = max(lanes + (0 if job.keeps_moments else prior), prior + job.plan.divergence_tokens)
    hidden: int = tokens * int(job.parent.config.hidden_size) * int(job.subject.model.dtype.itemsize)
    moments: Counter[int] = Counter()
    for site in job.table:
        moments[site.layer] += 4 * (site.num_units * site.unit_channels) ** 2
    copies = 4 * 8 * max((site.num_units * site.unit_channels) ** 2 for site in job.table)
    return hidden + copies + (sum(moments.values()) if job.keeps_moments else max(moments.values()))


def _root_mean_square(checkpoint: Path) -> float:
    """Of all weights of a checkpoint."""
    total, count = 0.0, 0
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (no mapping)
                weight = opened.get_tensor(name).double()
                total, count = total + float(weight.square().sum()), count + weight.numel()
    return math.sqrt(total / count)


def _kept_units(checkpoint: Path) -> dict[str, list[int]]:
    """Of a checkpoint, by site."""
    kept: dict[str, list[int]] = json.loads((checkpoint / "bonsai.json").read_text(encoding="utf-8"))["kept_units"]
    return kept
