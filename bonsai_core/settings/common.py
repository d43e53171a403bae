"""The settings that runs, adaptations and evaluations share, and how all settings are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, ValidationError

from bonsai_core.errors import BonsaiError, UnknownNameError, shortened
from bonsai_core.settings.groups import FIRST, MACHINE, TEXT
from bonsai_core.settings.schema import Schema, describe_faults, where
from bonsai_core.settings.types import Length, MaxMemory, Positive, Seed


class Settings(Schema):
    """Base of all configurations. The field descriptions are the command line's help.

    Attributes:
        PATHS: fields that may name a file or a folder.
        TEXTS: of these, those that name a text, or several with shares.
        RECIPES: fields that may name a recipe's file.
        NOT_DECISIVE: fields that do not change the result by more than rounding.
    """

    PATHS: ClassVar[tuple[str, ...]] = ()
    TEXTS: ClassVar[tuple[str, ...]] = ()
    RECIPES: ClassVar[tuple[str, ...]] = ()
    NOT_DECISIVE: ClassVar[frozenset[str]] = frozenset({"out"})

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> Self:
        """A configuration from parsed YAML or options.

        Raises:
            BonsaiError: a field is unknown or has a bad value; `source` says where it was set.
        """

        def described(row: Any, words: str) -> str:
            if row["type"] == "extra_forbidden":
                return str(UnknownNameError("setting", where(row), cls.model_fields))
            return f"{where(row)}: {words}" if row["loc"] else words

        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BonsaiError(f"{shortened(source)}: {describe_faults(error, described)}") from None

    @classmethod
    def names(cls) -> list[str]:
        """All settings in the order in which people read them: a configuration's own, then the shared ones."""
        return sorted(cls.model_fields, key=lambda name: name not in cls.__annotations__)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of every setting, as plain data, in the order in which people read them; None if it has none."""
        required = {name: "any" for name, field in cls.model_fields.items() if field.is_required()}
        return {**cls.model_validate(required)._plain(), **dict.fromkeys(required)}

    def decisive(self) -> dict[str, Any]:
        """All settings that decide the result, as plain data."""
        return {name: value for name, value in self._plain().items() if name not in self.NOT_DECISIVE}

    def to_yaml(self) -> str:
        """The configuration as a recipe that reproduces it."""
        return yaml.safe_dump(self._plain(), sort_keys=False)

    def _plain(self) -> dict[str, Any]:
        values = self.model_dump(mode="json")
        return {name: values[name] for name in self.names()}


class CommonSettings(Settings):
    """Base of configurations that evaluate."""

    eval_samples: Positive = Field(
        8, description="Evaluation windows, from the start of the text.", json_schema_extra=TEXT
    )
    eval_sequence_length: Length = Field(
        512,
        description="Tokens per evaluation window; a perplexity without it means nothing.",
        json_schema_extra=TEXT,
    )
    seed: Seed = Field(0, description="Seed of every random draw.", json_schema_extra=MACHINE)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps ...", json_schema_extra=MACHINE | FIRST)
    trust_remote_code: bool = Field(
        False, description="Allow modeling code that comes with the model.", json_schema_extra=MACHINE
    )


class LoadingSettings(CommonSettings):
    """Base of configurations that also choose the type of the weights, and the devices that they are on."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Type of the weights; auto is the checkpoint's own.",
        json_schema_extra=MACHINE,
    )
    load_in: Literal["full", "8bit", "4bit"] = Field(
        "full",
        description="Quantise the weights in memory (bitsandbytes); checkpoints are not quantised.",
        json_schema_extra=MACHINE,
    )
    device_map: Literal["none", "auto"] = Field(
        "none",
        description="auto: spread the model over GPU, CPU and disk (accelerate).",
        json_schema_extra=MACHINE,
    )
    max_memory: MaxMemory | None = Field(
        None, description="With --device-map auto, as 0=20GiB,cpu=60GiB.", json_schema_extra=MACHINE
    )

    @property
    def weights_elsewhere(self) -> bool:
        """Whether the full-precision weights are not all in memory: the model is quantised, or spread over devices."""
        return self.load_in != "full" or self.device_map == "auto"
