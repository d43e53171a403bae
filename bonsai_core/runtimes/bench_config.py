"""The settings of a comparison of speed: which models, in which runtimes, doing what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from bonsai_core.settings.common import Settings
from bonsai_core.settings.groups import FIRST, MACHINE, MODEL, SPEED
from bonsai_core.settings.names import Usable
from bonsai_core.settings.types import Positive, names_split


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime as it was asked for.

    Attributes:
        name: of the runtime or of an exporter, lower case.
        variant: of the exporter, such as ``q8_0``; "" for its default.
        python: the interpreter of the environment that has it; None for this one's.
    """

    name: str
    variant: str
    python: str | None

    @classmethod
    def parse(cls, text: str) -> RuntimeChoice:
        """``NAME``, ``NAME:VARIANT``, ``NAME=PYTHON`` or ``NAME:VARIANT=PYTHON``."""
        what, _, python = text.partition("=")
        name, _, variant = what.partition(":")
        return cls(name.strip().lower(), variant.strip(), python.strip() or None)

    def __str__(self) -> str:
        return f"{self.name}:{self.variant}" if self.variant else self.name


def _each_once(texts: tuple[str, ...]) -> tuple[str, ...]:
    names = [str(RuntimeChoice.parse(text)) for text in texts]
    if len(set(names)) < len(names):
        raise ValueError("name each runtime once, or with different variants")
    return texts


Numbers = Annotated[tuple[Positive, ...], BeforeValidator(names_split), Field(min_length=1)]


class BenchConfig(Settings):
    """The settings of a comparison of speed. The field descriptions are the command line's help."""

    models: Annotated[tuple[Usable[str], ...], Field(min_length=1)] = Field(
        description="Run directories, checkpoints, Hugging Face ids or 'demo'; or files that a runtime loads.",
        json_schema_extra=MODEL | FIRST,
    )
    against: Usable[str] | None = Field(
        None,
        description="The dense model, named likewise. Left out: what the first model was pruned from.",
        json_schema_extra=MODEL | FIRST,
    )
    runtime: Annotated[
        tuple[Usable[str], ...], BeforeValidator(names_split), Field(min_length=1), AfterValidator(_each_once)
    ] = Field(
        ("transformers",),
        description="Runtimes, as transformers,vllm,llama.cpp:q8_0 (a variant of the format), each with the Python "
        "interpreter of its environment where it is not this one: vllm=/envs/vllm/bin/python.",
        json_schema_extra=MODEL | FIRST,
    )
    batches: Numbers = Field((1, 8), description="Sequences at once, as 1,8,32.", json_schema_extra=SPEED | FIRST)
    prompt_tokens: Numbers = Field(
        (128, 512), description="Tokens of the prompts, as 128,512.", json_schema_extra=SPEED | FIRST
    )
    new_tokens: Positive = Field(
        32, description="Tokens that are generated after the first one.", json_schema_extra=SPEED | FIRST
    )
    repeats: Positive = Field(5, description="Turns in which each is timed, after a warm-up.", json_schema_extra=SPEED)
    threads: Positive | None = Field(
        None, description="Threads of the CPU. Left out: each runtime's own choice.", json_schema_extra=MACHINE | FIRST
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Type of the weights where the format leaves it open; auto is the dense checkpoint's own.",
        json_schema_extra=MACHINE | FIRST,
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda, mps ..., where the runtime can choose it.",
        json_schema_extra=MACHINE | FIRST,
    )
    trust_remote_code: bool = Field(
        False, description="Allow modeling code that comes with the models.", json_schema_extra=MACHINE
    )

    @property
    def runtimes(self) -> list[RuntimeChoice]:
        """The runtimes, as they were asked for."""
        return [RuntimeChoice.parse(text) for text in self.runtime]
