"""The laws of trackers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bonsai_core.contracts import Tracker
from bonsai_core.contracts.tracker import Plain
from bonsai_core.errors import BonsaiError
from bonsai_core.testing.component import ComponentContract

SETTINGS: dict[str, Plain] = {"model": "demo", "sparsity": 0.2, "search": 0, "latency": True, "prior.damping": 0.1}
REPORT = {"perplexity.pruned": 12.5, "latency.phases.decode.speedup.median": 1.2, "seconds.evaluate_dense": 3.0}


class TrackerContract(ComponentContract[Tracker]):
    """Inherit, and let `make` return the tracker, with options by which it needs no network."""

    def test_it_names_its_package(self) -> None:
        tracker = self.make()
        assert tracker.package.isidentifier(), f"{tracker.package!r} is not what Python imports"
        assert tracker.requirement.strip() == tracker.requirement != "", "what `pip install` calls it"

    def test_it_takes_a_run_from_begin_to_end(self) -> None:
        tracker = self.make()
        try:
            tracker.check_ready()
        except BonsaiError:  # what it needs is not installed
            return
        for summary in (REPORT, {}):  # a run that finished, and one of the same directory that did not
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                record = tracker.open("example", Path(folder), SETTINGS)
                record.log("submodel", {"kl": 0.5}, 0)
                record.log("submodel", {"kl": 0.25}, 1)
                record.log("round", {"sparsity": 0.2, "kendall_tau": 0.5}, 1)
                record.log("train", {"loss": 2.0, "kl": 0.0}, 1)
                record.log("curve", {"perplexity": 12.5}, 1)
                record.close(summary)
