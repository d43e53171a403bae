"""The figures of a card, each with what it was measured on; what no report has is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bonsai_core.display.printable import visible
from bonsai_core.publishing.facts import Facts
from bonsai_core.publishing.names import public_text


class Row(NamedTuple):
    """A figure of the dense, the pruned and the adapted model; a dash: not measured there."""

    what: str
    dense: str
    pruned: str
    adapted: str = "-"


class Results:
    """What the card says in numbers."""

    def __init__(self, facts: Facts) -> None:
        self._run, self._adaptation = facts.run, facts.adaptation
        self.sparsity = f"{facts.origin.sparsity:.1%}"
        self.adapted = facts.origin.adaptation is not None

    @property
    def rows(self) -> list[Row]:
        """The table of results."""
        return [*self._before_and_after(), *self._recovered()]

    @property
    def divergence(self) -> list[tuple[str, str]]:
        """KL to the dense model after the last round, nats per token: which text, and the figure."""
        rounds = (self._run or {}).get("rounds") or [{}]
        found: Mapping[str, Any] = rounds[-1].get("divergence") or {}
        guard = (self._run or {}).get("guard") or {}
        names = {
            "held_out": "calibration text that decided nothing",
            "guard": f"text of another kind ({_text(guard)})",
        }
        return [(text, f"{found[key]:.3f}") for key, text in names.items() if found.get(key) is not None]

    @property
    def timed_on(self) -> str | None:
        """The device that speeds were measured on, and how; None if there are none."""
        latency = (self._run or {}).get("latency") or {}
        if not latency.get("phases"):
            return None
        device = latency.get("device", "a device that the report does not name")
        return f"{device}, {latency['tokens']:,} tokens of prompt, one sequence, median of {latency['repeats']} turns"

    @property
    def calibration(self) -> str | None:
        """The text that it was pruned on."""
        text = (self._run or {}).get("calibration")
        return None if text is None else public_text(str(text["name"]))

    def _before_and_after(self) -> Iterator[Row]:
        if self._run is None:
            return
        ppl, parameters, weights = (self._run[name] for name in ("perplexity", "parameters", "weight_bytes"))
        adapted = (self._adaptation or {}).get("parameters", {}).get("all")
        yield Row(_perplexity(ppl["text"], ppl), _shown(ppl["dense"]), _shown(ppl["pruned"]))
        yield Row("parameters", f"{parameters['dense']:,}", f"{parameters['pruned']:,}", _counted(adapted))
        yield Row("weights, MB", f"{weights['dense'] / 1e6:,.1f}", f"{weights['pruned'] / 1e6:,.1f}")
        phases = (self._run.get("latency") or {}).get("phases") or {}
        for name, what in (("prefill", "prefill, ms"), ("decode", "decode, ms per token")):
            if name in phases:
                phase, speedup = phases[name], phases[name]["speedup"]
                yield Row(what, f"{phase['dense_s'] * 1e3:.1f}", f"{phase['pruned_s'] * 1e3:.1f}")
                spread = f"{speedup['median']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f})"
                yield Row(f"speed of the {name}, median over turns of both (quartiles)", "1", spread)

    def _recovered(self) -> Iterator[Row]:
        if self._adaptation is None:
            return
        ppl, evaluation = self._adaptation["perplexity"], self._adaptation["evaluation"]
        what = f"{_perplexity(evaluation, evaluation)}, before and after the adaptation"
        yield Row(what, _shown(ppl["teacher"], "-"), _shown(ppl["before"]), _shown(ppl["after"]))


def _perplexity(text: Mapping[str, Any], windows: Mapping[str, Any]) -> str:
    return f"perplexity on {_text(text)} ({windows['windows']} windows of {windows['sequence_length']:,} tokens)"


def _text(text: Mapping[str, Any]) -> str:
    """The name of a text as code within a table."""
    return code(public_text(str(text.get("name", "unknown"))))


def code(text: object) -> str:
    """Text of others within a line, as code: nothing in it is Markdown or HTML."""
    return f"`{visible(text, most=200).replace('`', chr(39)).replace('|', '/')}`"


def _shown(value: float | None, missing: str = "not finite") -> str:
    return missing if value is None else f"{value:.2f}"


def _counted(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
