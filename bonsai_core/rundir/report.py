"""The report of a run, from its journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.rundir import Journal
from bonsai_core.rundir.divergence import describe_narrowness
from bonsai_core.rundir.slowness import describe_slowness
from bonsai_core.units import UnitTable


def build_report(
    journal: Journal, table: UnitTable, keep_U: NDArray[np.bool_], dense_bytes: int, forward_tokens: int
) -> dict[str, Any]:
    """The contents of report.json.

    A perplexity that is not finite is None. All sections but ``seconds``, ``latency`` and ``memory`` are the same for
    the same configuration and seed, unless it is time that the budget limits.

    Args:
        dense_bytes: size of the dense weights in the type they were loaded in.
        forward_tokens: tokens of all forward passes that were planned.
    """
    started, saved = journal["run"], journal["save"]
    dense, pruned = journal["evaluate/dense"], journal["evaluate/pruned"]
    return {
        "config": started["config"],
        "perplexity": {
            "dense": dense["perplexity"],
            "pruned": pruned["perplexity"],
            "sequence_length": dense["sequence_length"],
            "windows": dense["windows"],
            "text": started["evaluation"],
        },
        "calibration": {**started["calibration"], **started.get("drawn", {})},
        "guard": started.get("guard"),
        "measured_on": started.get("measured_on"),
        "forward_tokens": forward_tokens,
        "parameters": {"dense": table.total_params, "pruned": saved["parameters"]},
        "sparsity": {
            "decoder": table.sparsity(keep_U),
            "whole_model": table.removed_params(keep_U) / table.total_params,
        },
        "weight_bytes": {"dense": dense_bytes, "pruned": saved["bytes"]},
        "budget": journal.get("budget"),
        "rounds": _rounds(journal),
        "layers": _layers(table, keep_U),
        "versions": started["versions"],
        "latency": _latency(journal),
        "verified": journal["verify"],
        "memory": {"peak_bytes": journal["peak"]["bytes"]},
        "seconds": journal.seconds(_stage),
    }


def _latency(journal: Journal) -> Mapping[str, Any] | None:
    """What was timed, with ``slower``: whether the pruned model is, by more than the spread."""
    latency = journal.get("latency")
    if not latency or not latency.get("phases"):  # not timed, or by an earlier version
        return latency
    return {**latency, "slower": describe_slowness(latency, journal["run"]["config"]["round_to"]) is not None}


def _rounds(journal: Journal) -> list[Mapping[str, Any]]:
    """One row per round; with the perplexity and the KL to the dense model after it, where they were measured."""
    rounds: list[Mapping[str, Any]] = []
    while (event := journal.get(f"round-{len(rounds) + 1}/selection")) is not None:
        evaluated = journal.get(f"round-{len(rounds) + 1}/evaluate")
        divergence = journal.get(f"round-{len(rounds) + 1}/divergence")
        row = {name: value for name, value in event.items() if name != "sha256"}
        if divergence:
            row["divergence"] = {**divergence, "narrow": describe_narrowness(divergence) is not None}
        rounds.append(row | ({"perplexity": evaluated["perplexity"]} if evaluated else {}))
    return rounds


def _layers(table: UnitTable, keep_U: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Units kept and units there were, per layer and kind of site."""
    layers: dict[int, dict[str, Any]] = defaultdict(dict)
    for site in table:
        layers[site.layer][site.kind] = {"kept": int(keep_U[site.units].sum()), "dense": site.num_units}
    return [layers[index] for index in sorted(layers)]


def _stage(key: str) -> str:
    name = key.rsplit("/", 1)[-1] if key.startswith("round-") else key.split("/", 1)[0]
    return "measure" if name.startswith("submodel") else name.split("-")[0]  # the searches of a round have numbers
