"""What every plugin class is: a frozen pydantic model whose fields are its options."""

from __future__ import annotations

import inspect
from abc import ABC
from typing import ClassVar

from bonsai_core.settings.schema import Schema


class Component(Schema, ABC):
    """Base of every prior, sampler, metric, estimator, compensator, exporter and tracker.

    The fields are the options a user may set (``--estimator.folds 10``, or ``{name: ridge, folds: 10}`` in a
    recipe); unknown names are refused. Instances are frozen: what a component learns it returns.

    Attributes:
        name: what users type to choose it, lower case, unique within its kind.
    """

    name: ClassVar[str]

    @classmethod
    def summary(cls) -> str:
        """First line of the class's own docstring."""
        return (inspect.cleandoc(cls.__doc__ or "").splitlines() or [""])[0]
