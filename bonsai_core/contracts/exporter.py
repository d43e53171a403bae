"""Exporters: from a checkpoint to what a runtime reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bonsai_core.contracts.component import Component
from bonsai_core.contracts.family import Family
from bonsai_core.units import SiteKind


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of transformers, dense or pruned, in a directory, whose files are known to fit its configuration.

    Attributes:
        path: the directory: config.json, safetensors, the tokenizer's files.
        config: its configuration, as transformers loads it.
        model_type: the stock `model_type`, such as ``llama``.
        family: how it is built; None if no family is declared for it.
        layers: the sizes of every layer that is left, under the names of the configuration's fields.
        stock: whether the stock class loads it; otherwise its layers differ in width, and it has a modeling file.
    """

    path: Path
    config: Any
    model_type: str
    family: Family | None
    layers: tuple[Mapping[str, int], ...]
    stock: bool


@dataclass(frozen=True)
class Shapes:
    """What a runtime asks of a model's shapes, so that a run can keep to it.

    Attributes:
        uniform: every layer has the same widths, as the stock class wants it.
        min_units: units that every site of a kind keeps.
        round_to: what numbers of units are multiples of.
        excluded: kinds of unit that must not leave.
    """

    uniform: bool = False
    min_units: Mapping[SiteKind, int] = field(default_factory=dict)
    round_to: Mapping[SiteKind, int] = field(default_factory=dict)
    excluded: Collection[str] = ()


class Exporter(Component):
    """Writes a checkpoint in the format of a runtime.

    `bonsai export --format NAME` calls it, and `--format NAME:VALUE` sets the option that `variant` names.

    Attributes:
        runtime: what loads the result, as people call it: ``llama.cpp``. `--for` takes it, lower case.
        variant: the option that ``--format NAME:VALUE`` sets; "" for none.
        suffix: of the file that is written, such as ``.gguf``; "" if it is a directory.
        runner: a Python file that loads the result in the runtime, for verifying and timing; None if there is none. It
            runs in a process of its own, maybe of another environment, so it imports nothing of Bonsai; see
            `bonsai_core.runtimes.serve`.
        takes_adapted: whether a checkpoint whose weights were trained after pruning can be exported.
    """

    runtime: ClassVar[str]
    variant: ClassVar[str] = ""
    suffix: ClassVar[str] = ""
    runner: ClassVar[Path | None] = None
    takes_adapted: ClassVar[bool] = True

    @abstractmethod
    def refusal(self, checkpoint: Checkpoint) -> str | None:
        """Why the runtime cannot take a checkpoint, as a sentence that says what would help; None if it can."""

    def as_saved(self, checkpoint: Checkpoint) -> bool:
        """Whether the runtime loads a checkpoint that is not refused as it is, so that nothing has to be exported."""
        return False

    def check_ready(self) -> None:
        """Check that packages and programs that `export` needs are here; a run asks before it starts.

        Raises:
            BonsaiError: one is missing; the message says how to get it.
        """

    @abstractmethod
    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        """Write the result.

        Args:
            out: a file that does not exist yet, or an empty directory. It gets its final name only if nothing fails.

        Raises:
            BonsaiError: a package or a program is missing, or the checkpoint cannot be written so.
        """

    @abstractmethod
    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        """What users type to run the result, as lines of shell or Python.

        Args:
            out: where it was written, or will be; where nothing has to be, the checkpoint.
        """

    def check(self, checkpoint: Checkpoint, out: Path) -> str | None:
        """Compare what was written with the checkpoint, for ``--verify``, where there is no `runner`.

        Returns:
            What was found, such as "it gives the same tensors"; None if nothing can be compared.

        Raises:
            BonsaiError: it is another model.
        """
        return None

    def shapes(self, config: Any, family: Family) -> Shapes:
        """What a run must keep to so that `refusal` has nothing to refuse.

        Args:
            config: the dense model's transformers configuration.

        Raises:
            BonsaiError: the runtime takes no pruned model of the family.
        """
        return Shapes()

    def tolerance(self, checkpoint: Checkpoint) -> float | None:
        """How far log-probabilities of tokens may be from those of transformers in float32, nats.

        None where they differ on purpose, as those of quantised weights do.
        """
        return 1e-3
