"""What is known of a checkpoint: where it comes from, and the reports of the run and of the adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasPath, BaseModel, Field, ValidationError

from bonsai_core.adaptation.directory import AdaptDirectory, is_adaptation
from bonsai_core.checkpoint.licence import repeatable
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.publishing.names import hub_model, public_name
from bonsai_core.rundir import JournaledDirectory, RunDirectory
from bonsai_core.sources.demo import LICENSE


class Adaptation(BaseModel):
    """What bonsai.json says of an adaptation."""

    of: str
    teacher: str | None
    config: dict[str, Any]
    method: str = Field(validation_alias=AliasPath("config", "method"))


class Origin(BaseModel):
    """What bonsai.json says, as far as a card repeats it."""

    base_model: str
    base_revision: str | None = None
    license: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any]
    units: list[str] = Field(validation_alias=AliasPath("config", "units"))
    sparsity: float = Field(ge=0, le=1)
    versions: dict[str, str] = Field(default_factory=dict)
    adaptation: Adaptation | None = None

    @property
    def base(self) -> str:
        """The dense model as it may be named: its hub id, or the name of its folder."""
        return hub_model(self.base_model) or public_name(self.base_model)

    @property
    def stated_license(self) -> Mapping[str, str]:
        """The licence of the dense model, under the hub's keys; empty if its files do not say."""
        return repeatable(self.license) or ({"license": LICENSE} if self.base_model == "demo" else {})


@dataclass(frozen=True)
class Facts:
    """A checkpoint that Bonsai wrote.

    Attributes:
        run: the report of the run that pruned it; None if it is not at hand.
        adaptation: the report of its adaptation; None if there was none, or it is not at hand.
    """

    origin: Origin
    run: Mapping[str, Any] | None
    adaptation: Mapping[str, Any] | None


def facts_of(checkpoint: Path) -> Facts | None:
    """What is known of a checkpoint in a directory; None if Bonsai did not write it, or that is not known."""
    provenance = find_provenance(str(checkpoint))
    try:
        origin = Origin.model_validate(provenance.metadata)
    except ValidationError:
        return None
    if origin.adaptation is None:
        return Facts(origin, _report(provenance.run), None)
    run = None
    with suppress(BonsaiError, OSError):  # it may have been moved since
        run = find_provenance(origin.adaptation.of).run
    return Facts(origin, _report(run), _report(provenance.run))


def _report(path: Path | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    directory: JournaledDirectory = AdaptDirectory(path) if is_adaptation(path) else RunDirectory(path)
    try:
        return directory.read_report()
    except (FileNotFoundError, BonsaiError):  # it is not finished, or its report is damaged
        return None
