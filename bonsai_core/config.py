"""The configuration of a run: one frozen model for Python, recipes and the command line alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from bonsai_core.settings.common import CommonSettings, LoadingSettings
from bonsai_core.settings.groups import EFFORT, FIRST, HOW_MUCH, LIMITS, MACHINE, METHODS, MODEL, RESULT, TEXT
from bonsai_core.settings.names import HubName, Usable
from bonsai_core.settings.quantities import TARGETS, Bytes, Parameters, Time
from bonsai_core.settings.types import (
    MAX_COUNT,
    SMALLEST_STEP,
    ByKind,
    Length,
    NotNegative,
    Positive,
    RoundTo,
    names_split,
)
from bonsai_core.units import KINDS_OF_SITE, UnitKind

Executor = Literal["local", "ray"]
BUDGETS = ("sparsity", *TARGETS)
"""Settings of which a run has one."""


class PluginChoice(BaseModel):
    """A plugin by name, with its options; written ``ridge`` or ``{name: ridge, folds: 10}``."""

    model_config = ConfigDict(frozen=True)
    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and set(value) != {"name", "options"}:
            return {"name": value.get("name"), "options": {k: v for k, v in value.items() if k != "name"}}
        return value

    @model_serializer
    def _to_short_form(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name


class RecordedSettings(CommonSettings):
    """Base of configurations whose results are recorded elsewhere, which decides nothing of them."""

    NOT_DECISIVE: ClassVar[frozenset[str]] = CommonSettings.NOT_DECISIVE | {"tracker", "push_to_hub", "private"}

    tracker: PluginChoice | None = Field(
        None,
        description="Where values are recorded while it goes on; `bonsai plugins tracker` lists what there is.",
        json_schema_extra=RESULT,
    )
    push_to_hub: HubName | None = Field(
        None,
        description="Name of the model on the Hugging Face hub, as OWNER/NAME, to which the checkpoint is pushed at "
        "the end.",
        json_schema_extra=RESULT,
    )
    private: bool = Field(
        False, description="With --push-to-hub: make the repository private.", json_schema_extra=RESULT
    )


class RunConfig(LoadingSettings, RecordedSettings):
    """Everything that decides the result of a run. The field descriptions are the command line's help."""

    TEXTS = ("dataset", "eval_dataset", "metric_dataset", "guard_dataset")
    PATHS = ("model", *TEXTS)
    RECIPES = ("adapt",)
    NOT_DECISIVE = RecordedSettings.NOT_DECISIVE | {"page", "executor", "ray_address", "workers"}

    model: Usable[str] = Field(
        "demo",
        description="A directory, a run directory, a Hugging Face id, or 'demo' (SmolLM2-135M-Instruct).",
        json_schema_extra=MODEL | FIRST,
    )
    dataset: Usable[str] = Field(
        "builtin",
        description="Calibration text: builtin, wikitext2, c4, c4[de], wikipedia[de], PATH.txt, PATH.jsonl or a "
        "Hugging Face id, in full NAME[config]:split#column. Several with shares: c4:0.7,chat.jsonl:0.3.",
        json_schema_extra=TEXT | FIRST,
    )
    eval_dataset: Usable[str] | None = Field(
        None,
        description="Evaluation text, named likewise. Left out: the data set's own, or a file's last fifth.",
        json_schema_extra=TEXT,
    )
    metric_dataset: Usable[str] | None = Field(
        None,
        description="What sub-models are measured on: text named likewise, or for the metric choice a .jsonl of "
        "questions. Left out: the calibration text.",
        json_schema_extra=TEXT,
    )
    guard_dataset: Usable[str] | None = Field(
        None,
        description="Text of another kind, named likewise, that decides nothing: KL on it shows whether the "
        "calibration text is too narrow. none: no guard. Left out: builtin or builtin-code.",
        json_schema_extra=TEXT,
    )
    prior: PluginChoice = Field(
        PluginChoice(name="obs"), description="Cheap score per unit.", json_schema_extra=METHODS
    )
    sampler: PluginChoice = Field(
        PluginChoice(name="antithetic"), description="Which sub-models are measured.", json_schema_extra=METHODS
    )
    metric: PluginChoice = Field(
        PluginChoice(name="kl"), description="How a sub-model is measured.", json_schema_extra=METHODS
    )
    estimator: PluginChoice = Field(
        PluginChoice(name="ridge"),
        description="Regression from measurements to importances.",
        json_schema_extra=METHODS,
    )
    compensator: PluginChoice = Field(
        PluginChoice(name="least_squares"),
        description="Repair of what is kept, after every removal.",
        json_schema_extra=METHODS,
    )
    slicer: str = Field(
        "auto", description="Model family; auto takes it from the model's config.json.", json_schema_extra=MODEL
    )
    units: Annotated[tuple[UnitKind, ...], BeforeValidator(names_split), Field(min_length=1)] = Field(
        ("attention", "mlp", "experts"),
        description="What may leave, as attention,mlp,layer: attention (KV groups) or query (one query head of each KV "
        "group), mlp (channels), experts or expert_width (one channel of each expert), sublayer (a whole attention or "
        "MLP), layer.",
        json_schema_extra=MODEL,
    )
    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        0.2,
        description="Fraction of the decoder layers' parameters to remove. Instead of it there are targets: "
        "--target-params, --target-bytes, --target-kv, --target-active-params, --target-latency.",
        json_schema_extra=HOW_MUCH | FIRST,
    )
    target_params: Parameters | None = Field(
        None,
        description="Instead: parameters that are left at most, as 1.2B, 350M or 0.5x (of the dense model).",
        json_schema_extra=HOW_MUCH,
    )
    target_bytes: Bytes | None = Field(
        None,
        description="Instead: size of the checkpoint's weights at most, as 2GB, 600MB, 1.5GiB or 0.5x.",
        json_schema_extra=HOW_MUCH,
    )
    target_kv: Bytes | None = Field(
        None,
        description="Instead: KV cache per token at most, as 0.5x or 20KB. Only attention and layers reduce it.",
        json_schema_extra=HOW_MUCH,
    )
    target_active_params: Parameters | None = Field(
        None,
        description="Instead: parameters that one token uses at most, as 3B or 0.5x. Experts of which a token uses as "
        "many as before do not reduce it; their widths, attention and layers do.",
        json_schema_extra=HOW_MUCH,
    )
    target_latency: Time | None = Field(
        None,
        description="Instead: time of a pass at most, as 0.6x or 30ms, measured on the device at hand.",
        json_schema_extra=HOW_MUCH,
    )
    latency_of: Literal["decode", "prefill"] = Field(
        "decode",
        description="Of --target-latency: decode: one token more for every sequence; prefill: a prompt up to its first "
        "new token.",
        json_schema_extra=HOW_MUCH,
    )
    latency_batch: Positive = Field(1, description="Sequences of that pass.", json_schema_extra=HOW_MUCH)
    latency_tokens: Length = Field(
        512, description="Tokens of a prompt in that pass, or in the cache for decode.", json_schema_extra=HOW_MUCH
    )
    round_fraction: Annotated[float, Field(ge=SMALLEST_STEP, le=1)] = Field(
        0.1,
        description="Sparsity added per round (the paper's p_iter), or the share of what the dense model has of a "
        "target; the sparsity itself means one shot.",
        json_schema_extra=EFFORT,
    )
    min_rounds: Annotated[int, Field(gt=0, le=round(1 / SMALLEST_STEP))] = Field(
        1,
        description="Minimum number of rounds, of equal steps where --round-fraction gives fewer.",
        json_schema_extra=EFFORT,
    )
    submodels: Annotated[int, Field(ge=2, le=100_000)] = Field(
        80, description="Sub-models measured per round.", json_schema_extra=EFFORT | FIRST
    )
    samples: Positive = Field(
        2,
        description="Calibration windows, or questions, that every sub-model is measured on.",
        json_schema_extra=EFFORT,
    )
    prior_samples: Positive | None = Field(
        None,
        description="Calibration windows for the prior and the compensator, not among the samples; left out: 64, and "
        "512 on CUDA.",
        json_schema_extra=EFFORT,
    )
    held_out_samples: NotNegative = Field(
        8,
        description="Calibration windows that decide nothing: KL on them is reported after each round.",
        json_schema_extra=TEXT,
    )
    guard_samples: NotNegative = Field(
        4,
        description="Windows of the guard: KL on them is reported after each round; 0: no guard.",
        json_schema_extra=TEXT,
    )
    search: NotNegative = Field(
        0,
        description="Generations of swaps between sites that are tried, and measured, after each regression.",
        json_schema_extra=EFFORT,
    )
    search_samples: Annotated[int, Field(ge=4, le=MAX_COUNT)] = Field(
        8,
        description="Calibration windows, of their own, for the search, and for the answers with and without whole "
        "sub-layers and layers where these compete with single units.",
        json_schema_extra=EFFORT,
    )
    resample: Literal["common", "fresh"] = Field(
        "common",
        description="common: the same calibration draw in every round; fresh: a new one in each.",
        json_schema_extra=TEXT,
    )
    sequence_length: Length = Field(256, description="Tokens per calibration window.", json_schema_extra=TEXT)
    batch_size: Positive | None = Field(
        None,
        description="Calibration windows per pass through a layer; left out: what suits the device.",
        json_schema_extra=MACHINE,
    )
    batch_tokens: Positive | None = Field(
        None,
        description="Tokens of sub-models that go through the layers together, which takes memory for their hidden "
        "states; left out: 65536.",
        json_schema_extra=MACHINE,
    )
    executor: Executor = Field(
        "local",
        description="What measures the sub-models: local: this machine, all GPUs that --device allows; ray: the "
        "workers of a Ray cluster.",
        json_schema_extra=MACHINE,
    )
    ray_address: str | None = Field(
        None,
        description="With --executor ray: auto, or HOST:PORT of a cluster's head node. Left out: a private cluster on "
        "this machine, for the time of the run.",
        json_schema_extra=MACHINE,
    )
    workers: Positive | None = Field(
        None,
        description="Processes that measure sub-models, each with the whole model. Left out: one for each GPU; with "
        "--executor ray as many as the cluster has room for.",
        json_schema_extra=MACHINE,
    )
    eval_rounds: bool = Field(
        False, description="Perplexity after every round, not only at the end.", json_schema_extra=RESULT
    )
    rank: Literal["importance", "density"] = Field(
        "density",
        description="Remove by lowest importance, or by lowest importance per parameter.",
        json_schema_extra=METHODS,
    )
    round_to: RoundTo = Field(
        "auto",
        description="Widths of MLPs and experts become multiples of this; or attention=2,mlp=64. gpu: 64, cpu: 16, "
        "fewer where a sixteenth of the width is; auto: of the device. Widths of experts are of 8 unless named.",
        json_schema_extra=LIMITS,
    )
    min_units: ByKind[NotNegative] = Field(
        1,
        description="Units every site keeps, or attention=2,mlp=64,layer=20 (layers that stay); 0 lets whole "
        "sub-layers go (free shapes only).",
        json_schema_extra=LIMITS,
    )
    max_fraction: ByKind[Annotated[float, Field(gt=0, le=1)]] = Field(
        1.0,
        description="Share of its units that a site may lose, or attention=0.3,mlp=0.8,layer=0.2 (of all layers).",
        json_schema_extra=LIMITS,
    )
    protect: Annotated[tuple[int, ...], BeforeValidator(names_split)] = Field(
        (),
        description="Layers that stay whole, as 0,1,-1 (shapes free, or units layer).",
        json_schema_extra=LIMITS,
    )
    shapes: Literal["free", "uniform"] = Field(
        "free",
        description="free: each layer its own widths; uniform: the same everywhere, a stock checkpoint.",
        json_schema_extra=LIMITS | FIRST,
    )
    latency: bool = Field(True, description="Time dense and pruned side by side at the end.", json_schema_extra=RESULT)
    runtimes: Annotated[tuple[Usable[str], ...], BeforeValidator(names_split)] = Field(
        (),
        description="What the result is to run in, as vllm,llama.cpp: shapes are kept to what these take, and it is "
        "exported for them; llama.cpp:q8_0 names a variant. `bonsai plugins exporter` lists formats.",
        json_schema_extra=RESULT | FIRST,
    )
    page: bool = Field(
        True, description="Write report.html at the end, a page with the result.", json_schema_extra=RESULT
    )
    adapt: Usable[str] | None = Field(
        None,
        description="Recipe of an adaptation that follows: a YAML file, or a name that `bonsai recipe list` has.",
        json_schema_extra=RESULT | FIRST,
    )
    out: Usable[Path] | None = Field(
        None,
        description="Run directory; left out: runs/ plus a name made from the settings.",
        json_schema_extra=RESULT | FIRST,
    )

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, values: Any) -> Any:
        """A target takes the place of the default sparsity."""
        if not isinstance(values, dict):
            return values
        given = {name: values[name] for name in BUDGETS if values.get(name) is not None}
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one of them, a run has one budget")
        return values if "sparsity" in given or not given else {**values, "sparsity": None}

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.sparsity is None and self.target is None:
            raise ValueError("sparsity is none, and there is no target instead of it")
        if self.sparsity is not None and self.sparsity < SMALLEST_STEP:
            raise ValueError(
                f"sparsity {self.sparsity:g} is less than a unit of any model: give {SMALLEST_STEP} or more"
            )
        by_kind = self.min_units if isinstance(self.min_units, dict) else dict.fromkeys(KINDS_OF_SITE, self.min_units)
        minimums = [number for kind, number in by_kind.items() if not KINDS_OF_SITE[kind].leaves_with_layer]
        if 0 in minimums and self.shapes == "uniform":
            raise ValueError("min_units 0 needs shapes free: a stock checkpoint cannot leave out sub-layers")
        if self.shapes == "uniform" and "sublayer" in self.units:
            raise ValueError("units sublayer needs shapes free: a stock checkpoint cannot leave out sub-layers")
        if self.shapes == "uniform" and "layer" in self.units and len(self.units) > 1:
            raise ValueError("shapes uniform takes units layer alone, or attention and mlp: not both in one run")
        for kind, other in ((kind, facts.replaces) for kind, facts in KINDS_OF_SITE.items()):
            if kind in self.units and other in self.units:
                raise ValueError(f"units {other} or {kind}, not both: they are the same parameters in two ways")
        if self.ray_address is not None and self.executor != "ray":
            raise ValueError("ray_address is that of a Ray cluster: set executor ray, too")
        if self.max_memory is not None and self.device_map != "auto":
            raise ValueError("max_memory limits what device_map auto may use; it is none here")
        if len(set(self.units)) < len(self.units):
            raise ValueError("units: each kind once")
        if self.protect and self.shapes == "uniform" and "layer" not in self.units:
            raise ValueError(
                "protect needs shapes free, or units layer: a stock checkpoint has the same widths in every layer"
            )
        return self

    @property
    def target(self) -> str | None:
        """The target that is given, one of `TARGETS`; None for a sparsity."""
        return next((name for name in TARGETS if getattr(self, name) is not None), None)

    @property
    def budget_name(self) -> str:
        """For the name of a directory: ``20`` for a sparsity of 0.2, ``kv-0.5x`` for a target."""
        if self.target is None:
            return f"{(self.sparsity or 0) * 100:g}"
        return f"{self.target.removeprefix('target_').replace('_', '-')}-{getattr(self, self.target).replace(' ', '')}"

    @property
    def saved_as(self) -> Literal["free", "uniform"]:
        """The shapes of the checkpoint: where only whole layers leave, the others are those of the stock model."""
        return "uniform" if self.units == ("layer",) else self.shapes

    @property
    def stock(self) -> bool:
        """Whether the checkpoint is one of the stock class."""
        return self.saved_as != "free"
