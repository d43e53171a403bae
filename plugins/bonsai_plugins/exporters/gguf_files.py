"""Checkpoints whose layers differ in width, written as GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from bonsai_core import Checkpoint
from bonsai_plugins.exporters.files import CONFIG, WEIGHTS, as_stock, copy_files, read_config, write_json
from bonsai_plugins.exporters.gguf_architectures import Architecture
from bonsai_plugins.exporters.gguf_layers import HEAD_SIZES, arrays_of, layer_tensors, written_layers
from bonsai_plugins.exporters.weights import Weights

NOT_COPIED = (*WEIGHTS, ".py", "bonsai.json")
WRITTEN_ANYWAY = ("GGUF.", "general.architecture", "general.size_label")
QUANTISED = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def write_frame(checkpoint: Checkpoint, directory: Path) -> None:
    """Write all of a checkpoint but its layers, as one of its stock class, for llama.cpp's converter.

    Args:
        directory: an empty one.
    """
    weights = Weights(checkpoint.path)
    copy_beside(checkpoint.path, directory, as_stock(read_config(checkpoint.path), checkpoint.model_type))
    outside = {name: weights.tensor(name) for name in weights.files if ".layers." not in name}
    save_file(outside, directory / "model.safetensors", metadata={"format": "pt"})


def copy_beside(source: Path, directory: Path, config: Mapping[str, Any]) -> None:
    """Copy the tokenizer and what else llama.cpp reads beside the weights, and write another configuration."""
    copy_files(source, directory, without=NOT_COPIED)
    write_json(directory / CONFIG, config)


def add_layers(
    frame: Path, out: Path, checkpoint: Checkpoint, architecture: Architecture, kind: str, pad_to: int
) -> None:
    """Write a file with the layers, and with what llama.cpp wrote of everything else.

    Args:
        frame: what llama.cpp made of `write_frame`.
        kind: f32, f16, bf16 or q8_0, of the matrices.
    """
    weights, config = Weights(checkpoint.path), checkpoint.config
    layers = written_layers(checkpoint, architecture, weights, pad_to)
    reader = gguf.GGUFReader(frame)
    writer = gguf.GGUFWriter(None, architecture.name)
    _copy_metadata(reader, writer, architecture.name)
    for key in HEAD_SIZES:
        writer.add_uint32(f"{architecture.name}.{key}", config.head_dim)
    for key, sizes in arrays_of(layers).items():
        writer.add_array(f"{architecture.name}.{key}", sizes)

    def tensors(read: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        for number, layer in enumerate(layers):
            yield from layer_tensors(number, layer, config, architecture, weights, read).items()

    for outside in reader.tensors:
        data = outside.data
        writer.add_tensor_info(outside.name, data.shape, data.dtype, data.nbytes, outside.tensor_type)
    for name, tensor in tensors(weights.size):
        _announce(writer, name, tensor, kind)
    writer.write_header_to_file(out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for outside in reader.tensors:
        writer.write_tensor_data(outside.data)
    for _, tensor in tensors(weights.tensor):
        writer.write_tensor_data(gguf.quants.quantize(tensor.float().numpy(), _type_of(tensor, kind)))
    writer.close()


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, architecture: str) -> None:
    """Copy what llama.cpp wrote, under the other architecture's name, without the sizes that layers have in arrays."""
    stock = f"{reader.fields['general.architecture'].contents()}."
    for field in reader.fields.values():
        key = field.name.removeprefix(stock)
        if key in (*arrays_of(()), *HEAD_SIZES) or field.name.startswith(WRITTEN_ANYWAY):
            continue
        name = field.name if key == field.name else f"{architecture}.{key}"
        sub_type = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)


def _announce(writer: gguf.GGUFWriter, name: str, tensor: Tensor, kind: str) -> None:
    """Say how a tensor will be stored."""
    stored = _type_of(tensor, kind)
    block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
    shape: tuple[int, ...] = tuple(tensor.shape)
    plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}.get(stored)
    if plain is None:
        shape = gguf.quant_shape_to_byte_shape(shape, stored)
    dtype = np.dtype(plain or np.uint8)
    writer.add_tensor_info(name, shape, dtype, tensor.numel() // block * block_bytes, stored)


def _type_of(tensor: Tensor, kind: str) -> gguf.GGMLQuantizationType:
    """As llama.cpp's converter decides: vectors as f32, and matrices whose rows are not whole blocks as f16."""
    stored = QUANTISED["f32" if tensor.dim() == 1 else kind]
    whole = tensor.shape[-1] % gguf.GGML_QUANT_SIZES[stored][0] == 0
    return stored if whole else QUANTISED["f16"]
