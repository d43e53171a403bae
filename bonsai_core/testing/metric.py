"""The laws of metrics."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bonsai_core.contracts import Answers, ChoiceMetric, DenseTokens, TokenMetric
from bonsai_core.testing.component import ComponentContract, assert_no_global_rng, unchanged

TOKENS, VOCABULARY = 300, 50
PEAK = 3.0
NOISE = (0.0, 1.0, 3.0, 9.0)
ROUNDING = 1e-5


class TokenMetricContract(ComponentContract[TokenMetric]):
    """Inherit, and let `make` return the metric."""

    def test_one_finite_number_per_token(self) -> None:
        dense, targets = _example()
        for logits in (dense, _worse(dense, 1.0)):
            values = self._per_token(logits, targets, dense)
            assert values.shape == (TOKENS,), f"{TOKENS} tokens gave shape {tuple(values.shape)}"
            assert values.dtype == torch.float32, f"{values.dtype}, not float32"
            assert values.isfinite().all(), "not finite"

    def test_the_dense_model_has_a_finite_value_and_utility(self) -> None:
        dense, targets = _example()
        value = self._value(dense, targets, dense)
        assert math.isfinite(value), f"value {value}"
        utility = self.make().utility(value)
        assert math.isfinite(utility), f"utility {utility}"

    def test_better_predictions_have_a_higher_utility(self) -> None:
        dense, targets = _example()
        metric = self.make()
        utilities = [metric.utility(self._value(_worse(dense, noise), targets, dense)) for noise in NOISE]
        assert utilities == sorted(utilities, reverse=True), f"noise {NOISE} gave utilities {utilities}"
        assert utilities[0] > utilities[-1], "noise makes no difference"

    def test_chunks_of_tokens_give_what_the_whole_gives(self) -> None:
        dense, targets = _example()
        logits = _worse(dense, 1.0)
        whole = self._per_token(logits, targets, dense)
        for size in (1, 7):
            chunks = zip(*(torch.split(tensor, size) for tensor in (logits, targets, dense)), strict=True)
            split = torch.cat([self._per_token(*chunk) for chunk in chunks])
            torch.testing.assert_close(split, whole, rtol=ROUNDING, atol=ROUNDING)

    def test_large_logits_stay_finite(self) -> None:
        dense, targets = _example()
        values = self._per_token(_worse(dense, 1.0) * 3000, targets, dense * 3000)
        assert values.isfinite().all(), "logits of float16's size gave a token that is not finite"

    def test_what_it_is_given_is_not_changed(self) -> None:
        dense, targets = _example()
        logits = _worse(dense, 1.0)
        with unchanged(logits=logits, targets=targets, dense=dense):
            self._per_token(logits, targets, dense)

    def test_no_global_rng_is_read(self) -> None:
        dense, targets = _example()
        assert_no_global_rng(lambda: self._per_token(_worse(dense, 1.0), targets, dense).numpy())

    def _per_token(self, logits: Tensor, targets: Tensor, dense: Tensor) -> Tensor:
        metric = self.make()
        with torch.inference_mode():
            return metric.per_token(logits, targets, DenseTokens.compare(dense, logits) if metric.needs_dense else None)

    def _value(self, logits: Tensor, targets: Tensor, dense: Tensor) -> float:
        return self.make().value(float(self._per_token(logits, targets, dense).double().mean()))


class ChoiceMetricContract(ComponentContract[ChoiceMetric]):
    """Inherit, and let `make` return the metric."""

    def test_one_finite_number_per_question(self) -> None:
        for answers in _questions():
            assert math.isfinite(self.make().per_question(answers)), f"not finite for {answers}"

    def test_being_surer_of_the_right_choice_is_never_worse(self) -> None:
        metric = self.make()
        for answers in _questions():
            surer = answers.log_likelihood.copy()
            surer[answers.gold] += 5.0
            better = metric.per_question(Answers(surer, answers.num_bytes, answers.gold))
            assert better >= metric.per_question(answers)

    def test_answering_right_is_better_than_answering_wrong(self) -> None:
        metric = self.make()
        right, wrong = (
            float(np.mean([metric.per_question(_confident(answers, shift)) for answers in _questions()]))
            for shift in (0, 1)
        )
        assert metric.utility(right) > metric.utility(wrong)

    def test_the_order_of_choices_does_not_matter(self) -> None:
        metric = self.make()
        for answers in _questions():
            order = np.arange(len(answers.num_bytes))[::-1]
            turned = Answers(answers.log_likelihood[order], answers.num_bytes[order], len(order) - 1 - answers.gold)
            assert math.isclose(metric.per_question(turned), metric.per_question(answers), rel_tol=1e-9, abs_tol=1e-9)

    def test_what_it_is_given_is_not_changed(self) -> None:
        for answers in _questions():  # the arrays are read-only: a metric that changes them raises
            self.make().per_question(answers)

    def test_no_global_rng_is_read(self) -> None:
        assert_no_global_rng(lambda: np.array([self.make().per_question(answers) for answers in _questions()]))


def _questions() -> list[Answers]:
    rng = np.random.default_rng(0)
    questions = []
    for num_choices in (2, 4, 5):
        for gold in range(num_choices):
            num_bytes = rng.integers(1, 40, size=num_choices)
            log_likelihood = -rng.exponential(3.0, size=num_choices) * num_bytes
            for array in (num_bytes, log_likelihood):
                array.setflags(write=False)
            questions.append(Answers(log_likelihood, num_bytes, gold))
    return questions


def _confident(answers: Answers, shift: int) -> Answers:
    """The same question, answered with the choice `shift` places after the right one."""
    scores = np.full(len(answers.num_bytes), -1000.0)
    scores[(answers.gold + shift) % len(scores)] = 0.0
    return Answers(scores, answers.num_bytes, answers.gold)


def _example() -> tuple[Tensor, Tensor]:
    """A dense model that is mostly right: logits [tokens, vocabulary] and targets [tokens]."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    noise = 0.3 * torch.randn(TOKENS, VOCABULARY, generator=generator)
    return noise + PEAK * torch.nn.functional.one_hot(targets, VOCABULARY), targets


def _worse(dense: Tensor, noise: float) -> Tensor:
    return dense + noise * torch.randn(dense.shape, generator=torch.Generator().manual_seed(1))
