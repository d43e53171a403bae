"""The files of a plan: plan.json, and a folder of the tensors that are not slices of the base's."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bonsai_core.checkpoint.digests import layer_of
from bonsai_core.errors import DamagedError
from bonsai_core.settings.names import Usable
from bonsai_core.settings.schema import Schema, describe_faults, where
from bonsai_core.settings.types import NotNegative, Positive
from bonsai_core.units import UnitKind

PLAN_NAME = "plan.json"
REPAIRS_NAME = "repairs"
LARGEST_BYTES = 2**28
"""Of plan.json: a thousand times that of a model of 70 billion parameters."""
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]


class Kept(Schema):
    """The units of a site that stay.

    Attributes:
        kept: how many.
        of: units in the base.
        bits: a bit for each of these, 1 = kept, the first unit's is the highest of the first byte; in base64.
    """

    kept: NotNegative
    of: Positive
    bits: str

    @classmethod
    def of_vector(cls, keep: NDArray[np.bool_]) -> Self:
        """Those of a keep vector, bool [units]."""
        bits = base64.b64encode(np.packbits(keep).tobytes()).decode()
        return cls(kept=int(keep.sum()), of=len(keep), bits=bits)

    @property
    def vector(self) -> NDArray[np.bool_]:
        """Bool [units], True = kept."""
        return np.unpackbits(self._data, count=self.of).astype(bool)

    @property
    def _data(self) -> NDArray[np.uint8]:
        return np.frombuffer(base64.b64decode(self.bits, validate=True), np.uint8)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            fits = len(self._data) == -(-self.of // 8) and self.vector.sum() == self.kept
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"bits are not base64 of {self.of} bits of which {self.kept} are 1")
        return self


class Base(Schema):
    """The model that was pruned.

    Attributes:
        model: a directory, a Hugging Face id, or ``demo``.
        revision: the commit of its repository on the hub; None for a directory.
        fingerprint: of the tensors in its files, see `WeightFiles.fingerprint`.
    """

    model: Usable[str]
    revision: Revision | None
    fingerprint: Sha256


class PlanFile(Schema):
    """What plan.json says.

    Attributes:
        slicer: the model family that it was pruned as, or ``auto``.
        units: what could leave, which says what the sites are.
        shapes: of the checkpoint.
        added_biases: whether all output projections have a bias unlike in the base.
        dtype: type of the checkpoint's weights.
        keep: for each site, in order, the units that stay.
        repaired: names in the pruned model of the tensors that are not slices of the base's.
        weights: digests of the checkpoint's tensors, see `weight_digests`.
        files: digests of its other files, see `file_digests`.
        num_bytes: size of its weight files.
        run: what else its bonsai.json says: settings, sparsity, versions.
    """

    format: Literal[1] = 1
    base: Base
    slicer: str
    units: tuple[UnitKind, ...]
    shapes: Literal["free", "uniform"]
    added_biases: bool
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    keep: dict[str, Kept]
    repaired: tuple[str, ...]
    weights: dict[str, Sha256]
    files: dict[str, Sha256]
    num_bytes: Annotated[int, Field(ge=0, lt=2**60)]
    run: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """That of a plan.

        Raises:
            DamagedError: there is none, or it is not what `write` writes.
        """
        path = directory / PLAN_NAME
        if not path.is_file():
            raise DamagedError(
                f"{directory} is not a plan: there is no {PLAN_NAME} in it. Give the directory that "
                f"bonsai export --format plan has written."
            )
        try:
            if path.stat().st_size > LARGEST_BYTES:
                raise ValueError("it is too large")
            values = json.loads(path.read_text(encoding="utf-8"))
            # Numbers and characters that a checkpoint's bonsai.json could not have.
            json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
            return cls.model_validate(values)
        except ValidationError as error:
            faults = describe_faults(error, lambda row, words: f"{where(row)}: {words}" if row["loc"] else words)
            raise DamagedError(f"{path} is not a plan that this version of Bonsai reads: {faults}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedError(f"{path} cannot be read as a plan: {error}") from None

    def write(self, directory: Path) -> None:
        """Write it so that `read` gives it back."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        (directory / PLAN_NAME).write_text(text + "\n", encoding="utf-8")


def write_repairs(directory: Path, layer: str, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of a layer that are not slices, by their names in the pruned model."""
    (directory / REPAIRS_NAME).mkdir(exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, _repairs_path(directory, layer), metadata={"format": "pt"})


def load_repaired(directory: Path, name: str) -> Tensor:
    """One of these tensors.

    Args:
        name: that of a tensor in a model that was built here, for it becomes a part of a path.

    Raises:
        DamagedError: it is not in the plan's files.
    """
    path = _repairs_path(directory, layer_of(name))
    try:
        if not path.is_file():
            raise FileNotFoundError("it is not a file")
        with safe_open(path, "pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise DamagedError(
            f"The plan repairs {name}, and {path} does not have it ({error}). Copy the plan as a whole."
        ) from None
    return tensor


def _repairs_path(directory: Path, layer: str) -> Path:
    return directory / REPAIRS_NAME / f"{layer}.safetensors"
