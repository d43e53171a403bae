"""results.json: the rows of a sweep and what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from bonsai_core.rundir.versions import versions
from bonsai_core.sweep.hardware import hardware, joined
from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.results import Row, rows_of
from bonsai_core.sweep.spec import SweepSpec

TABLE_VERSIONS = ("bonsai-prune", "torch", "transformers")


@dataclass(frozen=True)
class Results:
    """Everything that tables, plots and the page are drawn from.

    Attributes:
        command: what was typed.
        date: when this was written, UTC.
        hardware: that runs were executed on since the command was typed; this machine's, if none was.
        models, texts: what was pruned, and what perplexity was measured on; usually one each.
    """

    title: str
    about: str
    command: str
    date: str
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    models: Sequence[str]
    texts: Sequence[str]
    seeds: Sequence[int]
    rows: Sequence[Row]

    def provenance(self) -> list[tuple[str, str]]:
        """How the numbers were made, as (name, text)."""
        gpu = f", {self.hardware['gpu']}" if self.hardware["gpu"] else ""
        return [
            ("Command", self.command),
            ("Model", "; ".join(self.models)),
            ("Perplexity on", "; ".join(self.texts)),
            ("Seeds", ", ".join(str(seed) for seed in self.seeds)),
            ("Date", f"{self.date[:10]} {self.date[11:16]} UTC"),
            ("Hardware", f"{self.hardware['cpu']}, {self.hardware['cores']} cores{gpu}"),
            ("Versions", ", ".join(f"{name} {self.versions[name]}" for name in TABLE_VERSIONS)),
        ]

    def to_json(self) -> str:
        """The contents of results.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


def gather(spec: SweepSpec, outcomes: Sequence[Outcome], command: str) -> Results:
    """The results of a sweep whose runs have ended."""
    reports = [outcome.report for outcome in outcomes if outcome.report]
    return Results(
        title=spec.title,
        about=spec.about,
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=joined([outcome.hardware for outcome in outcomes if outcome.hardware] or [hardware()]),
        versions=versions(),
        models=list(dict.fromkeys(report["config"]["model"] for report in reports)),
        texts=list(dict.fromkeys(_text(report["perplexity"]) for report in reports)),
        seeds=spec.seeds,
        rows=[row for outcome in outcomes for row in rows_of(outcome)],
    )


def _text(perplexity: Mapping[str, Any]) -> str:
    return f"{perplexity['text']['name']}, {perplexity['windows']} x {perplexity['sequence_length']:,} tokens"
