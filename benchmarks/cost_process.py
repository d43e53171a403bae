"""Functions called in processes of their own, so that each has its own peak of memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from transformers.utils import logging

from bonsai_core.model.storage.memory import return_large_blocks

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def apart(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """What a function of a module returns, called in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _begin() -> None:
    return_large_blocks()  # as the command line does
    for library in ("scipy.stats", "sklearn.linear_model", "sklearn.model_selection"):
        importlib.import_module(library)  # which estimators import late: all processes hold the same libraries
    logging.disable_progress_bar()
    logging.set_verbosity_error()
