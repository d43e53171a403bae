"""An adaptation as a whole: begun in a fresh directory, or resumed in one where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_core.adaptation.checkpoint import check_room
from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.finish import finish, follow
from bonsai_core.adaptation.job import AdaptJob, default_path, open_adaptation
from bonsai_core.adaptation.page import page_of
from bonsai_core.adaptation.rank_checks import check_ranks, check_shared, refuse_alone
from bonsai_core.adaptation.ranks import Ranks, joined
from bonsai_core.events import Warned
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.pages.quick import QuickLook, compare_adaptations, look_at_adaptation
from bonsai_core.pages.write import write_page
from bonsai_core.publishing.consent import consented, refuse_unstored
from bonsai_core.publishing.loading import write_card
from bonsai_core.publishing.push import check_push, push_once
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import refuse_code
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.sources import with_absolute_paths
from bonsai_core.tracking.observer import tracked


@dataclass(frozen=True)
class AdaptResult:
    """A finished adaptation: its directory, the contents of its report.json, and its address if it was pushed."""

    directory: Path
    report: Mapping[str, Any]
    pushed: str | None = None

    @classmethod
    def open(cls, path: Path | str) -> AdaptResult:
        """A finished adaptation, by its directory. No model is loaded.

        Raises:
            BonsaiError: there is no adaptation, it is not finished, or its report is damaged.
        """
        directory = AdaptDirectory.open(Path(path))
        return cls(directory.path, directory.finished_report())

    @property
    def model_path(self) -> Path:
        """The adapted checkpoint."""
        return AdaptDirectory(self.directory).model_path

    def summary(self) -> str:
        """The verdict on the adaptation and its main numbers, as plain text."""
        return str(look_at_adaptation(self.report))

    def compare(self, other: AdaptResult, *others: AdaptResult) -> QuickLook:
        """This adaptation and others side by side. Print it, or let a notebook show it."""
        return compare_adaptations({result.directory: result.report for result in (self, other, *others)})

    def _repr_html_(self) -> str:
        return look_at_adaptation(self.report)._repr_html_()


def adapt(config: AdaptConfig, *, registry: Registry | None = None) -> AdaptResult:
    """Train a pruned model to recover, and save it.

    Under torchrun or `accelerate launch` all processes call it alike: they train together, the first one writes, and
    all return the result.

    Args:
        registry: plugins and observers; None loads all installed ones.

    Raises:
        BonsaiError: something is wrong that the user can fix; the message says what.
    """
    registry = registry or Registry()
    with joined() as ranks:
        refuse_alone(config, ranks)
        config, directory = ranks.share(lambda: _free_directory(with_absolute_paths(config)))
        open_job = _opening(config, registry, ranks)
        if not ranks.is_first:
            return _followed(open_job, directory, ranks)
        with tracked(config.tracker, config.decisive(), registry):
            job = open_job()
            check_room(directory.path, job)
            check_shared(directory, ranks)
            with directory.begin(config, registry.observe) as journal:
                report = finish(job, directory, Ledger(directory, journal, registry.observe), ranks)
                return ranks.share(lambda: _published(directory, report, config, registry))


def resume_adaptation(
    path: Path | str,
    *,
    trust_remote_code: bool = False,
    push_to_hub: str | None = None,
    tracker: str | None = None,
    registry: Registry | None = None,
) -> AdaptResult:
    """Continue an adaptation that was interrupted; a finished one is returned as it is.

    Args:
        trust_remote_code: allow modeling code that comes with the model, if the adaptation was started with it.
        push_to_hub: the name on the hub that it was started with, if it is to be pushed there; None: it is not pushed.
        tracker: the name of the tracker that it was started with, if that is to go on; None: nothing is sent.
            What is left out is said as a warning, with the option that turns it on.

    Raises:
        BonsaiError: there is none, its configuration, text or model changed, or another process has it.
    """
    registry = registry or Registry()

    def agreed() -> tuple[AdaptDirectory, AdaptConfig]:
        directory = AdaptDirectory.open(Path(path))
        stored = directory.config()
        refuse_code(path, wanted=stored.trust_remote_code, trusted=trust_remote_code)
        refuse_unstored(directory.path, stored, push_to_hub=push_to_hub, tracker=tracker)
        config = consented(
            stored,
            directory.path,
            push_to_hub=push_to_hub,
            tracker=tracker,
            warn=lambda text: registry.observe(Warned(text)),
        )
        return directory, config

    with joined() as ranks:
        return continue_adaptation(*ranks.share(agreed), registry)


def continue_adaptation(directory: AdaptDirectory, config: AdaptConfig, registry: Registry) -> AdaptResult:
    """The same with settings that the present user has agreed to.

    Raises:
        BonsaiError: its configuration, text or model changed, or another process has it.
    """
    with joined() as ranks:
        ranks.share(lambda: check_push(config, directory.path))
        open_job = _opening(config, registry, ranks)
        if not ranks.is_first:
            return _followed(open_job, directory, ranks)
        with tracked(config.tracker, config.decisive(), registry), directory.reopen(registry.observe) as journal:
            job = open_job()
            check_shared(directory, ranks)
            directory.remove_temporaries()
            report = finish(job, directory, Ledger(directory, journal, registry.observe), ranks)
            return ranks.share(lambda: _published(directory, report, config, registry))


def _free_directory(config: AdaptConfig) -> tuple[AdaptConfig, AdaptDirectory]:
    """The directory of a new adaptation, which holds nothing yet."""
    directory = AdaptDirectory(config.out or default_path(find_provenance(config.model)))
    directory.refuse_occupied()
    check_push(config)
    return config, directory


def _opening(config: AdaptConfig, registry: Registry, ranks: Ranks) -> Callable[[], AdaptJob]:
    """What finds and checks everything, on every rank; only the first one warns."""

    def warn(text: str) -> None:
        if ranks.is_first:
            registry.observe(Warned(text))

    def opened() -> AdaptJob:
        check_ranks(config, ranks, warn)
        return open_adaptation(config, registry, warn)

    return lambda: ranks.in_turn(opened)


def _followed(open_job: Callable[[], AdaptJob], directory: AdaptDirectory, ranks: Ranks) -> AdaptResult:
    """What the other ranks do while the first one adapts."""
    job = open_job()
    check_shared(directory, ranks)
    follow(job, directory, ranks)
    return ranks.share(lambda: AdaptResult(directory.path, {}))


def _published(
    directory: AdaptDirectory, report: Mapping[str, Any], config: AdaptConfig, registry: Registry
) -> AdaptResult:
    """The card and the page are written, and the checkpoint is pushed if that was asked for."""
    write_card(directory.path, registry, trust_remote_code=config.trust_remote_code)
    trust = config.trust_remote_code
    write_page(directory, lambda: page_of(directory, report, registry, trust_remote_code=trust), registry.observe)
    return AdaptResult(directory.path, report, pushed=push_once(directory.path, config, registry))
