"""A whole adaptation: from a pruned checkpoint to a better one and its report; and the same again after a kill."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.methods import causal_lm, merge, prepare
from bonsai_core.adaptation.report import build_adapt_report, draw_curve
from bonsai_core.adaptation.state import trained
from bonsai_core.adaptation.teacher import StoredTeacher, check_teacher
from bonsai_core.adaptation.training import Step, train
from bonsai_core.adaptation.workspace import TRAINING_COST, AdaptWorkspace, default_path, open_adaptation
from bonsai_core.checkpoint import checkpoint_directory, weight_bytes
from bonsai_core.events import (
    AdaptationFinished,
    AdaptationStarted,
    CurvePoint,
    Event,
    Stage,
    StageStarted,
    StepDone,
    TokensDone,
    Warned,
)
from bonsai_core.model.forward.latency import peak_bytes
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.loading.load import load_checked, load_model, load_tokenizer
from bonsai_core.model.loading.lookup import find_source
from bonsai_core.model.loading.provenance import find_origin
from bonsai_core.model.loading.saved import measured_loss, verify_saved
from bonsai_core.model.storage.devices import Placement, find_device
from bonsai_core.model.storage.fingerprint import fingerprint
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import Journal, check_disk, refuse_changes, refuse_code
from bonsai_core.rundir.versions import versions
from bonsai_core.sources import with_absolute_paths

EVALUATION_BATCH = 8
DISK_MARGIN = 1.1


@dataclass(frozen=True)
class AdaptResult:
    """Where a finished adaptation lies and what it found.

    Attributes:
        directory: its directory.
        report: the contents of report.json.
    """

    directory: Path
    report: Mapping[str, Any]

    @property
    def model_path(self) -> Path:
        """The adapted checkpoint."""
        return AdaptDirectory(self.directory).model_path


def adapt(config: AdaptConfig, *, registry: Registry | None = None) -> AdaptResult:
    """Train a pruned model to recover, and save it.

    Args:
        config: what to do.
        registry: plugins and observers; None loads all installed ones.

    Raises:
        BonsaiError: something is wrong that the user can mend; the message says what.
    """
    registry = registry or Registry()
    config = with_absolute_paths(config)
    path = config.out or default_path(find_origin(config.model))
    directory = AdaptDirectory(path)
    directory.refuse_occupied()
    work = open_adaptation(config, registry, lambda text: registry.observe(Warned(text)))
    _check_room(path, work)
    with directory.begin(config, registry.observe) as journal:
        return _Adaptation(work, directory, journal, registry.observe).finish()


def resume_adaptation(
    path: Path | str, *, trust_remote_code: bool = False, registry: Registry | None = None
) -> AdaptResult:
    """Continue an adaptation that was interrupted; a finished one is returned as it is.

    Args:
        path: its directory.
        trust_remote_code: allow modeling code that comes with the model, where it was started so.
        registry: as for `adapt`.

    Raises:
        BonsaiError: there is none, its configuration, text or model changed, or another process has it.
    """
    registry = registry or Registry()
    directory = AdaptDirectory.open(Path(path))
    config = directory.config()
    refuse_code(path, wanted=config.trust_remote_code, trusted=trust_remote_code)
    with directory.reopen(registry.observe) as journal:
        work = open_adaptation(config, registry, lambda text: registry.observe(Warned(text)))
        directory.remove_temporaries()
        return _Adaptation(work, directory, journal, registry.observe).finish()


class _Adaptation:
    def __init__(
        self, work: AdaptWorkspace, directory: AdaptDirectory, journal: Journal, observe: Callable[[Event], None]
    ) -> None:
        self._work = work
        self._directory = directory
        self._journal = journal
        self._observe = observe
        self._device = find_device(work.config.device)

    def finish(self) -> AdaptResult:
        """Do what the journal does not hold yet."""
        work = self._work
        self._observe(
            AdaptationStarted(
                self._directory.path,
                work.config.model,
                work.config.method,
                work.teacher,
                work.course.steps,
                work.tokens,
                work.forward_tokens,
            )
        )
        self._check_identity()
        saved = self._journal.get("save")
        if saved is None or saved["bytes"] != weight_bytes(self._directory.model_path):
            teacher = self._prepare_teacher()
            self._adapt(teacher)
            written = True
        else:
            self._observe(TokensDone(work.forward_tokens, replayed=True))
            written = False
        self._verify(again=written)
        return self._report()

    def _check_identity(self) -> None:
        work = self._work
        identity: dict[str, Any] = {
            "config": work.config.decisive(),
            "text": work.texts[0].describe(),
            "evaluation": work.texts[1].describe(),
            "teacher": {"model": work.teacher},
            "passes": {"precision": work.config.precision_on(self._device)},
        }
        started = self._journal.once("adapt", lambda: {**identity, "versions": versions()})
        for what in ("text", "evaluation", "teacher", "passes", "config"):
            refuse_changes(what, started[what], identity[what])
        if started["versions"] != versions():
            self._observe(Warned(f"Started with {started['versions']}, resumed with {versions()}."))

    def _prepare_teacher(self) -> StoredTeacher | Any | None:
        """What the student is distilled from; a teacher whose tokens are stored is no longer in memory afterwards."""
        work, journal = self._work, self._journal
        shape = work.teacher_shape
        if work.teacher is None:
            return None
        stored = StoredTeacher(self._directory.teacher_path, shape, work.model_config.vocab_size) if shape else None
        if stored is not None and stored.complete:
            self._observe(TokensDone(work.teacher_tokens, replayed=True))
            return stored
        self._observe(StageStarted(Stage.TEACHER, 0, f"the teacher {work.teacher}"))
        trusted = work.config.trust_remote_code
        model = load_model(work.teacher, device=work.config.device, trust_remote_code=trusted, warn=self._warn)
        tokenizer = load_tokenizer(work.teacher, trust_remote_code=work.config.trust_remote_code)
        check_teacher(
            model.config, work.model_config, (tokenizer, work.tokenizer), work.texts[0].pieces[0].read()[:2000]
        )
        self._check_weights("teacher", model)
        passes = self._passes(model)
        self._perplexity("evaluate/teacher", passes)
        if self._pass_type == torch.bfloat16:
            model.to(torch.bfloat16)
        if stored is None:
            return model.requires_grad_(False)
        length = work.course.windows_WL.shape[1]
        before = 0

        def progress(windows: int) -> None:
            nonlocal before
            self._observe(TokensDone((windows - before) * length))
            before = windows

        stored.compute(passes, work.course.windows_WL, journal, progress)
        del model, passes
        free_cache()
        return stored

    def _adapt(self, teacher: StoredTeacher | Any | None) -> None:
        work, config = self._work, self._work.config
        source, placement = work.origin.source, Placement(device=config.device)
        trusted = config.trust_remote_code
        model = load_checked(source, work.model_config, placement, trust_remote_code=trusted, warn=self._warn)
        kept = model.dtype
        self._check_weights("model", model)
        if not (config.method != "full" and kept == torch.bfloat16 == self._pass_type):
            model.float()  # small updates would be lost in half precision
        student = prepare(model, work.family, config)
        self._curve_point(0, student)
        self._observe(StageStarted(Stage.TRAIN, 0, "training"))
        count = sum(parameter.numel() for parameter in trained(student).values())
        self._journal.once("trained", lambda: {"parameters": count})

        train(
            student,
            work.course,
            teacher,
            work.layers,
            config,
            self._directory.state_path,
            self._resumed,
            lambda step: self._step(step, student),
        )
        model = merge(student)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(kept)
        model.eval()
        self._observe(StageStarted(Stage.EVALUATE, 0, "perplexity of the adapted model"))
        self._perplexity("evaluate/adapted", self._passes(model))
        self._journal.once("loss", lambda: measured_loss(model, work.evaluation_NL[0]))
        self._journal.once("peak", lambda: {"bytes": peak_bytes(self._device)})
        self._save(model)

    def _check_weights(self, what: str, model: Any) -> None:
        now = fingerprint(model)
        refuse_changes(what, self._journal.once(f"{what}-weights", lambda: {"sha256": now})["sha256"], now)

    def _resumed(self, steps: int) -> None:
        """Count what is behind the saved state."""
        work = self._work
        self._observe(TokensDone(TRAINING_COST * work.tokens * steps // work.course.steps, replayed=True))
        points = sum(0 < step <= steps for step in work.curve_steps)
        self._observe(TokensDone(points * work.evaluation_NL.size, replayed=True))

    def _step(self, step: Step, student: Any) -> None:
        """What happens after every optimiser step."""
        work, key = self._work, f"step-{step.number}"
        if key not in self._journal:
            self._journal.append(key, {**step.losses, "learning_rate": step.rate}, step.seconds)
        self._observe(StepDone(step.number, work.course.steps, step.losses))
        self._observe(TokensDone(TRAINING_COST * work.tokens // work.course.steps))
        if step.number in work.curve_steps:
            self._curve_point(step.number, student)
            student.train()

    def _curve_point(self, step: int, student: Any) -> None:
        student.eval()
        perplexity = self._perplexity(f"evaluate/{step}", self._passes(causal_lm(student)))
        self._observe(CurvePoint(step, self._work.course.steps, perplexity))

    def _save(self, model: Any) -> None:
        self._observe(StageStarted(Stage.SAVE, 0, "checkpoint"))
        work, path = self._work, self._directory.model_path
        provenance = {
            **work.origin.metadata,
            "adaptation": {
                "of": work.config.model,
                "teacher": work.teacher,
                "config": work.config.decisive(),
                "versions": versions(),
            },
        }
        with (
            self._directory.writing(f"the checkpoint {path}"),
            checkpoint_directory(path, model, work.tokenizer, provenance, work.parent_files) as partial,
        ):
            model.save_pretrained(partial)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        written = {"bytes": weight_bytes(path), "parameters": parameters}
        self._journal.once("save", lambda: written)

    def _verify(self, *, again: bool) -> None:
        """Open the checkpoint as its users will: it has to be the model that was adapted.

        Args:
            again: it was written again, so that an earlier look at it does not count.
        """
        self._observe(StageStarted(Stage.VERIFY, 0, "the checkpoint, loaded again"))
        free_cache()
        path, window_T, config = self._directory.model_path, self._work.evaluation_NL[0], self._work.config

        def verified() -> dict[str, Any]:
            loss, placement = self._journal["loss"]["loss"], Placement(device=config.device)
            return verify_saved(path, window_T, loss, placement, trust_remote_code=config.trust_remote_code)

        self._journal.once("verify", verified, again=again)

    def _report(self) -> AdaptResult:
        work, directory = self._work, self._directory
        report = build_adapt_report(self._journal, work)
        directory.write_report(report)
        with directory.writing(f"the picture {directory.curve_path}"):
            draw_curve(report, directory.curve_path)
        shutil.rmtree(directory.teacher_path, ignore_errors=True)
        directory.state_path.unlink(missing_ok=True)
        self._observe(AdaptationFinished(directory.path))
        return AdaptResult(directory.path, report)

    @property
    def _pass_type(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self._work.config.precision_on(self._device))
        return found

    def _warn(self, text: str) -> None:
        self._observe(Warned(text))

    def _passes(self, model: Any) -> Passes:
        return Passes(model, EVALUATION_BATCH, self._warn)

    def _perplexity(self, key: str, passes: Passes) -> float | None:
        """Perplexity on the evaluation windows, from the journal if it is there; None where it is not finite."""
        windows_NL = self._work.evaluation_NL
        self._observe(TokensDone(windows_NL.size, replayed=key in self._journal))

        def measure() -> dict[str, Any]:
            perplexity = passes.perplexity(windows_NL)
            return {"perplexity": perplexity if math.isfinite(perplexity) else None}

        found: float | None = self._journal.once(key, measure)["perplexity"]
        return found


def _check_room(path: Path, work: AdaptWorkspace) -> None:
    """Refuse before the work starts if what it writes would not fit: checkpoint, two states, teacher."""
    source = Path(find_source(work.origin.source))
    size = weight_bytes(source) if source.is_dir() else 0
    in_float32 = size * torch.float32.itemsize // (work.model_config.dtype or torch.float32).itemsize
    state = {"full": 3 * in_float32, "lora": in_float32, "scales": 0}[work.config.method]
    check_disk(path, int(DISK_MARGIN * (size + 2 * state + work.scratch_bytes())))
