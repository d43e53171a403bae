"""The training itself: transformers' Trainer with the loss of an adaptation, from where the last process stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.data import Schedule, Windows
from bonsai_core.adaptation.methods import causal_lm
from bonsai_core.adaptation.objective import Objective
from bonsai_core.adaptation.passes import Passes
from bonsai_core.adaptation.ranks import Ranks
from bonsai_core.adaptation.sharding import is_sharded
from bonsai_core.adaptation.state import load_state, save_state, trained
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.chunks import out_of_memory
from bonsai_core.upstream import (
    average_over_passes,
    checkpoint_activations,
    leave_unwrapped,
    use_one_gpu,
)

LOWEST_RATE = 0.1
"""Learning rate at the end of the cosine, as a share of the highest."""
SAVING_SHARE = 0.05
"""At most this share of the time goes into saving states."""


@dataclass(frozen=True)
class TrainingStep:
    """An optimiser step that was made.

    Attributes:
        number: from 1.
        losses: means over its windows: ``lm`` and ``kl`` in nats per token, ``hidden``, and the weighted ``loss``.
        rate: learning rate.
    """

    number: int
    losses: dict[str, float]
    rate: float
    seconds: float


def learning_rate(step: int, steps: int, config: AdaptConfig) -> float:
    """Of step number `step` (from 0): a linear rise, then a cosine."""
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return config.highest_rate * (step + 1) / (rising + 1)
    done = (step - rising) / max(1, steps - rising)
    return config.highest_rate * (LOWEST_RATE + (1 - LOWEST_RATE) * (1 + math.cos(math.pi * done)) / 2)


def train(
    objective: Objective,
    schedule: Schedule,
    config: AdaptConfig,
    state_path: Path,
    ranks: Ranks,
    may_be_unused: bool,
    on_resume: Callable[[int], None],
    on_step: Callable[[TrainingStep], None],
) -> None:
    """Make the steps that come after the saved state, each rank with its part of the windows.

    Args:
        objective: on its device, whole or sharded.
        may_be_unused: whether a pass may leave out some parameters of the model.
        on_resume: receives the number of steps up to the saved state.
        on_step: receives every step, on all ranks, before its state is saved.

    Raises:
        BonsaiError: the loss is not finite, the device has too little memory, or another rank has failed.
    """
    model = objective.model
    parameters = trained(model)
    decays = {name for name, parameter in parameters.items() if parameter.ndim > 1 and config.method != "scales"}
    matrices = [parameter for name, parameter in parameters.items() if name in decays]
    others = [parameter for name, parameter in parameters.items() if name not in decays]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=1.0,
        fused=True,
    )
    first = ranks.in_turn(lambda: load_state(state_path, parameters, optimizer))
    if len(steps := set(ranks.gather(first))) > 1:
        raise BonsaiError(f"The ranks have read other states from {state_path}, after steps {sorted(steps)}: resume.")
    on_resume(first)
    if first >= schedule.steps:
        return
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(first + step, schedule.steps, config)
    )
    if config.gradient_checkpointing:
        checkpoint_activations(causal_lm(model))
    passes = Passes.of(config, ranks.count)
    arguments = TrainingArguments(
        output_dir=str(state_path.parent),
        max_steps=schedule.steps - first,
        per_device_train_batch_size=passes.windows,
        gradient_accumulation_steps=passes.per_step,
        max_grad_norm=config.max_grad_norm,
        use_cpu=_device(model).type == "cpu",
        seed=config.seed,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=_device(model).type == "cuda",
        ddp_find_unused_parameters=may_be_unused,
    )
    use_one_gpu(arguments)
    watch = _Watch(first, parameters, optimizer, config, passes, ranks, state_path, on_step)
    trainer = _Trainer(
        model=objective,
        args=arguments,
        optimizers=(optimizer, rates),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    if is_sharded(objective):
        leave_unwrapped(trainer)
    gpus = [_device(model)] if _device(model).type == "cuda" else None
    trainer.begin(Windows(schedule, first, ranks), watch)
    try:
        with torch.random.fork_rng(gpus):
            trainer.train()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise BonsaiError(
            f"The device ran out of memory. Give --micro-batch-size {passes.fewer}, "
            f"--gradient-checkpointing, or a shorter --sequence-length; with --method full and several processes, "
            f"--shard. To keep the steps that are done, set micro_batch_size, gradient_checkpointing or shard in "
            f"{state_path.parent / 'adapt.yaml'} and resume. "
            f"({str(error).splitlines()[0]})"
        ) from error


class _Trainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer on one rank's windows; dropout depends on seed and pass alone, as a resume needs."""

    def begin(self, windows: Windows, watch: _Watch) -> None:
        average_over_passes(self)  # the loss is a mean over the windows of one pass
        self._windows = windows
        self._watch = watch

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """As it is: the windows are this rank's already."""
        size, pinned = self.args.per_device_train_batch_size, self.args.dataloader_pin_memory
        return DataLoader(self._windows, size, pin_memory=pinned)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        torch.manual_seed(self._watch.next_seed())
        return super().training_step(*args, **kwargs)  # type: ignore[no-any-return]

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Weighted sum of the losses on one pass's windows."""
        losses: dict[str, Tensor] = model(**inputs)
        self._watch.add(losses)
        return losses["loss"]


@dataclass(eq=False)
class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Reports every step, and saves the state from time to time and after the last one."""

    first: int
    parameters: dict[str, nn.Parameter]
    optimizer: Any
    config: AdaptConfig
    passes: Passes
    ranks: Ranks
    state_path: Path
    on_step: Callable[[TrainingStep], None]

    def __post_init__(self) -> None:
        self._step = self.first
        self._passes: list[dict[str, float]] = []
        self._started = self._saved = time.monotonic()
        self._saving = 0.0

    def next_seed(self) -> int:
        """That of the next pass: the same for the same windows, whatever the number of ranks."""
        done = (self._step * self.ranks.count + self.ranks.number) * self.passes.per_step + len(self._passes)
        return int(np.random.SeedSequence((self.config.seed, done)).generate_state(1)[0])

    def add(self, values: dict[str, Tensor]) -> None:
        """Take note of one pass."""
        self._passes.append({name: float(value.detach()) for name, value in values.items()})

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()
        self._rate = self.optimizer.param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step = self.first + state.global_step
        rows = [row for rows in self.ranks.gather(self._passes) for row in rows]
        self._passes.clear()
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        self._check(means)
        self.on_step(TrainingStep(self._step, means, self._rate, time.monotonic() - self._started))
        last = state.global_step == state.max_steps
        if self.ranks.share(lambda: last or self._is_due()):
            began = time.monotonic()
            save_state(self.state_path, self._step, self.parameters, self.optimizer, self.ranks)
            self._saved = time.monotonic()
            self._saving = self._saved - began

    def _check(self, means: dict[str, float]) -> None:
        if not math.isfinite(means["loss"]):
            raise BonsaiError(
                f"The loss is not finite at step {self._step} ({means}). Try a lower --learning-rate than "
                f"{self.config.highest_rate:g}, or --precision float32."
            )

    def _is_due(self) -> bool:
        """Whether the state should be saved by now."""
        pause = 60 * self.config.save_minutes
        due = max(pause, self._saving / SAVING_SHARE) if pause else 0
        return time.monotonic() - self._saved >= due


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
