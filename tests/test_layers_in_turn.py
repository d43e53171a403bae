"""Decoder layers one after the other, each with its weights only while it is the current one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from conftest import LAYERS, MIXTURES, PICOS, Pico, StoppedError, family_of, saved
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, load_model
from bonsai_core.model.recognition.laws import logits
from bonsai_core.model.sites.table import unit_table
from bonsai_core.model.storage.elsewhere import Elsewhere
from bonsai_core.model.storage.in_turn import in_turn
from bonsai_core.model.storage.incoming import Fetches
from bonsai_core.model.storage.offloaded import changed, fetched
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.structure.declared import decoder_layers
from bonsai_core.model.subject import Subject
from bonsai_core.upstream import has_hooks, is_offloaded, offloaded_weights, set_offloaded_weights

UNLIKE = [next(p for p in PICOS if p.family == name) for name in ("llama", "gemma2", "phi3", "opt", "falcon")]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
PLACES = pytest.mark.parametrize("place", ["disk", "host", pytest.param("cuda", marks=needs_cuda)])
WAYS = pytest.mark.parametrize("units", [("experts",), ("expert_width",)], ids=["experts", "widths"])
Call = tuple[tuple[Any, ...], dict[str, Any]]


def offloaded(parent: Path, place: str, **settings: Any) -> Any:
    """A model whose decoder layers have no weights of their own: they are on disk, or on the CPU for it or CUDA."""
    if place != "disk":
        device = torch.device("cuda:0" if place == "cuda" else "cpu")
        return cpu_offload(load_model(str(parent), device="cpu", **settings), execution_device=device)
    return load_model(str(parent), device="cpu", device_map="auto", max_memory="cpu=20KB", **settings)


@pytest.fixture
def spread(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Callable[..., Any]:
    """Makes pico models that are offloaded."""

    def build(pico: Pico, place: str = "disk", **settings: Any) -> Any:
        return offloaded(saved(pico, tokenizer, tmp_path / "parent", max_shard_size="60KB"), place, **settings)

    return build


def test_memory_of_a_gpu_that_is_not_there_is_refused(pico_directory: Path) -> None:
    with pytest.raises(BonsaiError, match=r"--max-memory '99=1GiB' names GPU 99; the number of GPUs here is \d"):
        load_model(str(pico_directory), device="cpu", device_map="auto", max_memory="99=1GiB")


def layers_of(registry: Registry, pico: Pico, model: Any) -> dict[int, Any]:
    return dict(enumerate(decoder_layers(model, family_of(registry, pico))))


def recorded(model: Any, layers: Mapping[int, nn.Module], tokens: int = 12) -> dict[int, tuple[Call, Tensor]]:
    """What each layer is called with and what it puts out in the model's own forward pass."""
    calls: dict[int, tuple[Call, Tensor]] = {}
    with ExitStack() as hooks, torch.inference_mode():
        for number, layer in layers.items():

            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, number: int = number) -> None:
                calls[number] = (args, kwargs), output

            hooks.enter_context(layer.register_forward_hook(hook, with_kwargs=True))
        model(torch.arange(5, 5 + tokens)[None], use_cache=False)
    return calls


def turns(layers: Mapping[int, nn.Module], counts: Fetches | None = None) -> closing[Any]:
    return closing(in_turn(layers, counts))


def first(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def state(model: nn.Module) -> dict[str, Any]:
    """All that says where a model's weights are."""
    found: dict[str, Any] = dict(model.named_parameters())
    for name, module in model.named_modules():
        if is_offloaded(module):
            found[f"{name} map"] = offloaded_weights(module)
    return found


@contextmanager
def nothing_stays(model: Any) -> Iterator[None]:
    dense, before = logits(model), state(model)  # a pass of the model itself makes new tensors
    yield
    after = state(model)
    assert before.keys() == after.keys()
    assert all(after[name] is before[name] for name in before)
    assert not has_hooks(model)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]
    assert torch.equal(logits(model), dense)


@PLACES
@pytest.mark.parametrize("pico", [*UNLIKE, *MIXTURES], ids=str)
def test_a_layer_gives_what_it_gives_in_the_models_own_pass(
    registry: Registry, spread: Callable[..., Any], pico: Pico, place: str
) -> None:
    model = spread(pico, place)
    layers = layers_of(registry, pico, model)
    calls = recorded(model, layers)
    with nothing_stays(model):
        for mode in (torch.inference_mode, torch.no_grad):
            with turns(layers) as taken, mode():
                for number, layer in taken:
                    assert not any(is_offloaded(module) for module in layer.modules())
                    (args, kwargs), output = calls[number]
                    assert torch.equal(first(layer(*args, **kwargs)), first(output))


@PLACES
def test_a_layer_is_fetched_once_however_often_it_is_called(
    registry: Registry, spread: Callable[..., Any], place: str
) -> None:
    pico = Pico("llama", 2, attention_bias=True)
    model = spread(pico, place)
    layers = layers_of(registry, pico, model)
    calls, counts = recorded(model, layers), Fetches()
    asked = Watch(layers)
    with turns(layers, counts) as taken, torch.inference_mode():
        for number, layer in taken:
            (args, kwargs), output = calls[number]
            assert all(torch.equal(first(layer(*args, **kwargs)), first(output)) for _ in range(3))
    weights = [weight for layer in layers.values() for weight in layer.parameters()]
    assert len(asked.served) == len(weights)
    assert counts == Fetches(num_layers=LAYERS, num_bytes=sum(weight.nbytes for weight in weights))


def test_layers_that_have_their_weights_are_left_alone(registry: Registry) -> None:
    pico = Pico("llama", 2)
    layers, counts = layers_of(registry, pico, pico.build()), Fetches()
    before = [dict(layer.named_parameters()) for layer in layers.values()]
    for (number, layer), weights in zip(in_turn(layers, counts), before, strict=True):
        assert layer is layers[number]
        assert all(weight is weights[name] for name, weight in layer.named_parameters())
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]
    assert counts == Fetches()


def stop_at(step: int, taken: Any) -> None:
    for number, _ in taken:
        if number == step:
            raise StoppedError


@pytest.mark.parametrize("steps", [0, 1, 2, LAYERS])
@pytest.mark.parametrize("pico", [Pico("llama", 2), Pico("mixtral", 2)], ids=str)
def test_nothing_stays_of_a_turn_that_ends_early(
    registry: Registry, spread: Callable[..., Any], pico: Pico, steps: int
) -> None:
    model = spread(pico)
    layers = layers_of(registry, pico, model)
    with nothing_stays(model):
        with turns(layers) as taken:
            for _ in range(steps):
                next(taken)
        with pytest.raises(StoppedError), turns(layers) as taken:
            stop_at(min(steps, LAYERS - 1), taken)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_files_that_cannot_be_read_are_an_error_where_they_are_needed(
    registry: Registry, spread: Callable[..., Any], tmp_path: Path, damage: str
) -> None:
    pico = Pico("llama", 2)
    model = spread(pico)
    layers = layers_of(registry, pico, model)
    last = f"layers.{LAYERS - 1}."
    for file in (tmp_path / "parent").glob("*.safetensors"):
        if any(last in name for name in load_file(file)):
            file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-8])
    reached: list[int] = []
    before = state(model)
    with pytest.raises(BonsaiError, match=r"The weights in .*model-.*safetensors cannot be read"):
        reached.extend(number for number, _ in in_turn(layers))
    assert reached == list(range(reached[-1] + 1))
    assert reached[-1] < LAYERS - 1  # of a file that has parts of two layers, the first is the one that fails
    assert all(one is before[name] for name, one in state(model).items())


class Watch:
    """Serves the weights of offloaded layers as copies, and knows which of them are still held."""

    def __init__(self, layers: Mapping[int, nn.Module]) -> None:
        self.served: list[tuple[int, weakref.ref[Any]]] = []
        self.most = 0
        for number, layer in layers.items():
            for module in layer.modules():
                if is_offloaded(module):
                    set_offloaded_weights(module, _Watched(offloaded_weights(module), number, self))

    def held(self) -> set[int]:
        return {number for number, array in self.served if array() is not None}

    def serve(self, number: int, weight: Tensor) -> Tensor:
        array = weight.numpy().copy()
        self.served.append((number, weakref.ref(array)))
        self.most = max(self.most, len(self.held()))
        return torch.from_numpy(array)


class _Watched(Mapping[str, Tensor]):
    def __init__(self, source: Mapping[str, Tensor], number: int, watch: Watch) -> None:
        self._source, self._number, self._watch = source, number, watch

    def __getitem__(self, name: str) -> Tensor:
        return self._watch.serve(self._number, self._source[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


@pytest.mark.parametrize("pico", [Pico("llama", 2), Pico("mixtral", 2)], ids=str)
def test_at_most_two_layers_are_held(registry: Registry, spread: Callable[..., Any], pico: Pico) -> None:
    model = spread(pico, "host")
    layers = layers_of(registry, pico, model)
    calls, watch = recorded(model, layers), Watch(layers)
    with turns(layers) as taken, torch.inference_mode():
        for number, layer in taken:
            (args, kwargs), _ = calls[number]
            layer(*args, **kwargs)
            assert {number} <= watch.held() <= {number, number + 1}
    assert watch.most == 2
    assert not watch.held()


def chosen_of(layers: Mapping[int, Any], calls: Mapping[int, tuple[Call, Tensor]]) -> dict[int, set[int]]:
    """The experts that the tokens of some calls are sent to, by layer."""
    chosen: dict[int, set[int]] = {}
    with turns(layers) as taken, torch.inference_mode():
        for number, layer in taken:
            found: list[Tensor] = []
            with layer.mlp.experts.register_forward_pre_hook(lambda _, args, found=found: found.append(args[1])):
                (args, kwargs), _ = calls[number]
                layer(*args, **kwargs)
            chosen[number] = set(found[0].flatten().tolist())
    return chosen


@PLACES
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_only_experts_that_tokens_are_sent_to_are_fetched(
    registry: Registry, spread: Callable[..., Any], place: str, implementation: str
) -> None:
    pico = Pico("qwen3_moe", 2)
    model = spread(pico, place, dtype="bfloat16")
    model.set_experts_implementation(implementation)
    layers = layers_of(registry, pico, model)
    one, two = recorded(model, layers, tokens=1), recorded(model, layers, tokens=2)
    chosen = [chosen_of(layers, calls) for calls in (one, two)]
    with nothing_stays(model), turns(layers, counts := Fetches()) as taken, torch.inference_mode():
        for number, layer in taken:
            for calls in (one, two, one):
                (args, kwargs), output = calls[number]
                assert torch.equal(first(layer(*args, **kwargs)), first(output))
    num_needed = sum(len(chosen[0][number] | chosen[1][number]) for number in layers)
    num_all = sum(layer.mlp.experts.num_experts for layer in layers.values())
    assert counts.num_experts == num_needed < num_all
    whole = sum(weight.nbytes for layer in layers.values() for weight in layer.parameters())
    expert = sum(weight[0].nbytes for weight in layers[0].mlp.experts.parameters())
    assert counts.num_bytes == whole - (num_all - num_needed) * expert


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_experts_that_are_stored_in_another_type_are_zeros_until_they_are_fetched(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, implementation: str
) -> None:
    pico = Pico("mixtral", 2)
    pico.build().save_pretrained(tmp_path, save_original_format=False)  # else they are stored again as they are loaded
    tokenizer.save_pretrained(tmp_path)
    model = offloaded(tmp_path, "disk", dtype="bfloat16")
    model.set_experts_implementation(implementation)
    layers = layers_of(registry, pico, model)
    calls = recorded(model, layers, tokens=1)
    chosen = chosen_of(layers, calls)
    with nothing_stays(model), turns(layers, counts := Fetches()) as taken, torch.inference_mode():
        for number, layer in taken:
            (args, kwargs), output = calls[number]
            for experts, there in ((layer.mlp.experts, set()), (layer.mlp.experts, chosen[number])):
                assert set(experts.down_proj.flatten(1).any(dim=1).nonzero().flatten().tolist()) == there
                assert torch.equal(first(layer(*args, **kwargs)), first(output))
    assert counts.num_experts == sum(map(len, chosen.values())) == 2 * LAYERS


def frozen(registry: Registry, pico: Pico, model: Any, parent: Path, units: Any) -> Subject:
    family = family_of(registry, pico)
    table = unit_table(pico.build(), family, units)
    return Subject(model, family, table=table, storage=Elsewhere(model, family, WeightFiles(parent, model)))


@WAYS
@PLACES
@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_masks_work_around_the_turns_and_within_each(
    registry: Registry, spread: Callable[..., Any], pico: Pico, place: str, units: Any, tmp_path: Path
) -> None:
    model = spread(pico, place)
    subject = frozen(registry, pico, model, tmp_path / "parent", units)
    keep_U = subject.table.keep_all()
    for site in subject.table:
        if site.in_mixture:
            keep_U[site.units.start : site.units.start + site.num_units // 2] = False
    layers = layers_of(registry, pico, model)
    dense = recorded(model, layers)
    with subject.masked(keep_U):
        masked = {number: call for number, (call, _) in recorded(model, layers).items()}
        outputs = {number: first(output) for number, (_, output) in recorded(model, layers).items()}

    def run(number: int, layer: Any) -> Tensor:
        args, kwargs = masked[number]
        return first(layer(*args, **kwargs))

    with nothing_stays(model), torch.inference_mode():
        with subject.masked(keep_U), turns(layers) as taken:
            assert all(torch.equal(run(number, layer), outputs[number]) for number, layer in taken)
        with turns(layers, counts := Fetches()) as taken:
            for number, layer in taken:
                for _ in range(2):  # with and without a mask, on rows that arrive under either
                    with subject.masked(keep_U):
                        assert torch.equal(run(number, layer), outputs[number])
                    (args, kwargs), output = dense[number]
                    assert torch.equal(first(layer(*args, **kwargs)), first(output))
        mixtures = [layer.mlp.experts for layer in layers.values() if hasattr(layer.mlp, "experts")]
        assert 0 < counts.num_experts <= sum(experts.num_experts for experts in mixtures)


def test_a_weight_is_changed_and_read_while_it_is_in_place(registry: Registry, spread: Callable[..., Any]) -> None:
    pico = Pico("llama", 2)
    model = spread(pico)
    layers = layers_of(registry, pico, model)
    dense = pico.build()
    with nothing_stays(model), turns(layers) as taken:
        for number, layer in taken:
            weight = layers_of(registry, pico, dense)[number].mlp.up_proj.weight
            assert torch.equal(fetched(layer.mlp.up_proj, "weight"), weight)
            with changed(layer.mlp.up_proj, "weight", lambda whole: whole * 2):
                assert torch.equal(fetched(layer.mlp.up_proj, "weight"), weight * 2)
            assert torch.equal(fetched(layer.mlp.up_proj, "weight"), weight)


def test_layers_and_modules_that_share_weights_all_have_them(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    pico = Pico("llama", 2)
    model = load_model(str(saved(pico, tokenizer, tmp_path)), device="cpu")
    mlp = model.model.layers[0].mlp
    mlp.gate_proj.weight = mlp.up_proj.weight
    model = cpu_offload(model, execution_device=torch.device("cpu"))
    calls = recorded(model, layers := layers_of(registry, pico, model))
    (args, kwargs), output = calls[0]
    with nothing_stays(model), turns({0: layers[0], 1: layers[0], 2: layers[2]}) as taken, torch.inference_mode():
        found = [first(layer(*args, **kwargs)) for _, layer in taken]
    assert torch.equal(found[0], first(output))
    assert torch.equal(found[1], first(output))
