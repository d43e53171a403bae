"""A page at the end of a run or an adaptation, which must not cost it its result."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from bonsai_core.events import Event, Warned
from bonsai_core.rundir import JournaledDirectory, write_atomically


def write_page(directory: JournaledDirectory, make: Callable[[], str], observe: Callable[[Event], None]) -> None:
    """Write the page that `make` makes; whatever goes wrong is a warning, because the result is complete without it."""
    try:
        write_atomically(directory.page_path, make().encode())
    except Exception as error:  # a plugin's, a full disk, a fault of ours: none is worth a run
        again = f"bonsai report {shlex.quote(str(directory.path))} --html"
        observe(Warned(f"{directory.page_path} could not be written ({error}). Nothing else is missing; try: {again}"))
