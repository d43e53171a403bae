"""The training itself: transformers' Trainer with the loss of an adaptation, from where the last process stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.data import Schedule, Windows
from bonsai_core.adaptation.loss import Teacher, TokenLosses, WholeTeacher, hidden_loss, token_losses
from bonsai_core.adaptation.methods import causal_lm
from bonsai_core.adaptation.state import load_state, save_state, trained
from bonsai_core.adaptation.teacher import StoredTeacher
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.chunks import out_of_memory
from bonsai_core.model.forward.lm_head import Head
from bonsai_core.upstream import average_over_passes, checkpointing, use_one_gpu

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
    model: nn.Module,
    schedule: Schedule,
    teacher: StoredTeacher | Any | None,
    layers: Sequence[int] | None,
    config: AdaptConfig,
    state_path: Path,
    on_resume: Callable[[int], None],
    on_step: Callable[[TrainingStep], None],
) -> None:
    """Make the steps that come after the saved state.

    Args:
        model: from `prepare`, on its device.
        teacher: stored log-probabilities, or a causal LM that runs at every step; None without distillation.
        layers: for each layer of the model, which one of the teacher's it was; None without `hidden_weight`.
        on_resume: receives the number of steps up to the saved state.
        on_step: receives every step, before its state is saved.

    Raises:
        BonsaiError: the loss is not finite, or the device has too little memory.
    """
    parameters = trained(model)
    decays = {name for name, parameter in parameters.items() if parameter.ndim > 1 and config.method != "scales"}
    matrices = [parameter for name, parameter in parameters.items() if name in decays]
    others = [parameter for name, parameter in parameters.items() if name not in decays]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=1.0,
        fused=True,
    )
    first = load_state(state_path, parameters, optimizer)
    on_resume(first)
    if first >= schedule.steps:
        return
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(first + step, schedule.steps, config)
    )
    arguments = TrainingArguments(
        output_dir=str(state_path.parent),
        max_steps=schedule.steps - first,
        per_device_train_batch_size=config.windows_per_pass,
        gradient_accumulation_steps=config.batch_size // config.windows_per_pass,
        max_grad_norm=config.max_grad_norm,
        **checkpointing(config.gradient_checkpointing),
        use_cpu=_device(model).type == "cpu",
        seed=config.seed,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=_device(model).type == "cuda",
    )
    use_one_gpu(arguments)
    watch = _Watch(first, parameters, optimizer, config, state_path, on_step)
    uses_cache = causal_lm(model).config.use_cache  # the Trainer switches it off in what will be saved
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=Windows(schedule, first * config.batch_size),
        data_collator=torch.utils.data.default_collate,
        optimizers=(optimizer, rates),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.begin(teacher, layers, watch)
    model_config = causal_lm(model).config
    model_config.use_cache = uses_cache
    try:
        with torch.random.fork_rng():
            trainer.train()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise BonsaiError(
            f"The device ran out of memory. Give --micro-batch-size {config.fewer_windows_per_pass}, "
            f"--gradient-checkpointing, or a shorter --sequence-length. To keep the steps that are done, set "
            f"micro_batch_size or gradient_checkpointing in {state_path.parent / 'adapt.yaml'} and resume. "
            f"({str(error).splitlines()[0]})"
        ) from error


class _Trainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """The Trainer with the loss of an adaptation; dropout depends on the step alone, as a resume needs."""

    def begin(self, teacher: StoredTeacher | Any | None, layers: Sequence[int] | None, watch: _Watch) -> None:
        average_over_passes(self)  # the loss is a mean over the windows of one pass
        self._config = watch.config
        self._teacher = teacher
        self._layers = layers
        self._watch = watch
        self._student = causal_lm(self.model)
        self._head = Head(self._student)
        self._passes_done = watch.first * self.args.gradient_accumulation_steps
        self._mixed = watch.config.precision_on(self.args.device) == "bfloat16"

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        seed = np.random.SeedSequence((self._config.seed, self._passes_done)).generate_state(1)[0]
        torch.manual_seed(int(seed))
        self._passes_done += 1
        return super().training_step(*args, **kwargs)  # type: ignore[no-any-return]

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Weighted sum of the losses on one pass's windows."""
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self._mixed):
            tokens, hidden = self._losses(inputs["input_ids"], inputs["window"])
        loss = tokens.loss + self._config.hidden_weight * hidden
        self._watch.add({"loss": loss, "lm": tokens.lm, "kl": tokens.kl, "hidden": hidden})
        return loss

    def _losses(self, ids_NL: Tensor, windows_N: Tensor) -> tuple[TokenLosses, Tensor]:
        """From the logits, and from the hidden states."""
        compared = self._layers is not None
        output = self._student.base_model(input_ids=ids_NL, use_cache=False, output_hidden_states=compared)
        teacher: Teacher | None = None
        hidden = ids_NL.new_zeros((), dtype=torch.float32)
        if isinstance(self._teacher, StoredTeacher):
            teacher = self._teacher.tokens(windows_N, ids_NL.device)
        elif self._teacher is not None:
            with torch.no_grad():
                theirs = self._teacher.base_model(input_ids=ids_NL, use_cache=False, output_hidden_states=compared)
            teacher = WholeTeacher(Head(self._teacher), theirs.last_hidden_state[:, :-1].flatten(0, 1))
            if self._layers is not None:
                after = theirs.hidden_states
                # The last one is taken after the final norm, whichever layer it comes from.
                compared_with = [*(after[layer + 1] for layer in self._layers[:-1]), after[-1]]
                hidden = hidden_loss(output.hidden_states[1:], compared_with)
        states_TH = output.last_hidden_state[:, :-1].flatten(0, 1)
        config = self._config
        tokens = token_losses(
            self._head,
            states_TH,
            ids_NL[:, 1:].flatten(),
            teacher,
            lm_weight=config.lm_weight,
            kl_weight=config.kl_weight,
        )
        return tokens, hidden


@dataclass(eq=False)
class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Reports every step, and saves the state from time to time and after the last one."""

    first: int
    parameters: dict[str, nn.Parameter]
    optimizer: Any
    config: AdaptConfig
    state_path: Path
    on_step: Callable[[TrainingStep], None]

    def __post_init__(self) -> None:
        self._passes: list[dict[str, float]] = []
        self._started = self._saved = time.monotonic()
        self._saving = 0.0

    def add(self, values: dict[str, Tensor]) -> None:
        """Take note of one pass."""
        self._passes.append({name: float(value.detach()) for name, value in values.items()})

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()
        self._rate = self.optimizer.param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = self.first + state.global_step
        means = {name: sum(row[name] for row in self._passes) / len(self._passes) for name in self._passes[0]}
        self._passes.clear()
        if not math.isfinite(means["loss"]):
            raise BonsaiError(
                f"The loss is not finite at step {number} ({means}). Try a lower --learning-rate than "
                f"{self.config.highest_rate:g}, or --precision float32."
            )
        self.on_step(TrainingStep(number, means, self._rate, time.monotonic() - self._started))
        now = time.monotonic()
        pause = 60 * self.config.save_minutes
        due = max(pause, self._saving / SAVING_SHARE) if pause else 0
        if now - self._saved >= due or state.global_step == state.max_steps:
            save_state(self.state_path, number, self.parameters, self.optimizer)
            self._saved = time.monotonic()
            self._saving = self._saved - now


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
