"""What pruning does not change is as the parent has it: tokenizer, generation settings, keys of config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import PICOS, Listener, Pico, family_of, measured, saved
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bonsai_core import AdaptConfig, BonsaiError, Registry, RunConfig, adapt, run
from bonsai_core.checkpoint import ParentFiles, save_checkpoint, weight_bytes
from bonsai_core.events import RunStarted, Warned
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.structure.layer_count import set_layers
from bonsai_core.model.subject import Subject

# Bytes that `save_pretrained` would write otherwise, or not at all; generation settings that it would refuse to.
KEPT = {
    "tokenizer.model": b"\x0a\x0esentencepiece",
    "special_tokens_map.json": b'{"eos_token":   "<eos>"}',
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "generation_config.json": b'{"do_sample": false,\n\n "temperature": 0.9, "top_p": 0.6}',
}
OTHERS = ("consolidated.safetensors", "modeling_mine.py", "params.json", "notes.txt", ".env")
STOCK = {pico.family: pico for pico in PICOS if not pico.option}
ROPE = [pico for pico in STOCK.values() if hasattr(pico.config, "rope_parameters")]
NEW_KEYS = ("rope_parameters", "dtype", "num_local_experts")


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture(scope="module")
def parent(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as version 4 wrote it, with other files beside it."""
    directory = saved(Pico("llama", 2), tokenizer, tmp_path_factory.mktemp("models") / "parent")
    config = read(directory / "config.json")
    del config["rope_parameters"], config["dtype"]
    old = {"rope_theta": 2e4, "rope_scaling": None, "torch_dtype": "float32", "transformers_version": "4.40.0"}
    write(directory / "config.json", config | old | {"auto_map": {"AutoConfig": "modeling_mine.Mine"}})
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "mine": ["kept", "too"]}
    write(directory / "tokenizer_config.json", read(directory / "tokenizer_config.json") | names)
    (directory / "additional_chat_templates").mkdir()
    for name, content in KEPT.items():
        (directory / name).write_bytes(content)
    for name in OTHERS:
        shutil.copyfile(directory / "model.safetensors", directory / name)
    return directory


def pruned(small_run: RunConfig, parent: Path, out: Path, **settings: Any) -> Path:
    base = {**small_run.model_dump(), "model": str(parent), "out": out, "latency": False}
    return run(RunConfig.model_validate({**base, **settings})).model_path


def check_kept(parent: Path, checkpoint: Path) -> None:
    names = [*KEPT, "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (checkpoint / name).read_bytes() == (parent / name).read_bytes(), name
    assert not [name for name in OTHERS if (checkpoint / name).exists()]
    theirs, ours = read(parent / "config.json"), read(checkpoint / "config.json")
    changed = {"num_hidden_layers", "intermediate_size", "auto_map", "architectures", "model_type"}
    assert {name: ours[name] for name in theirs.keys() - changed} == {
        name: value for name, value in theirs.items() if name not in changed
    }
    assert ours["rope_parameters"]["rope_theta"] == ours["rope_theta"] == 2e4
    assert ours["dtype"] == ours["torch_dtype"]
    assert "Mine" not in str(ours.get("auto_map"))


@pytest.mark.parametrize(
    "settings",
    [
        {"shapes": "uniform", "units": ("mlp",)},
        {"units": ("layer",)},
        {"units": ("mlp",)},
        {"shapes": "uniform", "units": ("mlp",), "device_map": "auto", "max_memory": "cpu=170KB"},
    ],
    ids=["uniform", "depth", "free", "from-disk"],
)
def test_files_are_the_same_bytes_and_keys_the_parents(
    small_run: RunConfig, parent: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    check_kept(parent, pruned(small_run, parent, tmp_path / "run", **settings))


def test_the_adapted_checkpoint_has_them_too(small_run: RunConfig, parent: Path, tmp_path: Path) -> None:
    pruned(small_run, parent, tmp_path / "run", units=("mlp",))
    settings: dict[str, Any] = {"steps": 1, "batch_size": 1, "sequence_length": 16, "evaluations": 1, "teacher": "none"}
    result = adapt(AdaptConfig(model=str(tmp_path / "run"), out=tmp_path / "adapted", **settings))
    check_kept(parent, result.model_path)
    of_run, adapted = (read(path / "config.json") for path in (tmp_path / "run" / "model", result.model_path))
    assert adapted == of_run


def test_without_generation_settings_there_are_none(small_run: RunConfig, parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent, tmp_path / "parent")
    (tmp_path / "parent" / "generation_config.json").unlink()
    checkpoint = pruned(small_run, tmp_path / "parent", tmp_path / "run")
    assert not (checkpoint / "generation_config.json").exists()


def test_another_type_of_the_weights_is_told_in_both_spellings(
    small_run: RunConfig, parent: Path, tmp_path: Path
) -> None:
    config = read(pruned(small_run, parent, tmp_path / "run", dtype="bfloat16") / "config.json")
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")


@pytest.mark.parametrize("pico", ROPE, ids=str)
def test_both_spellings_say_the_same(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, pico: Pico, tmp_path: Path
) -> None:
    directory = saved(pico, tokenizer, tmp_path / "parent")
    config = read(directory / "config.json")
    for rope in config["rope_parameters"].values() if pico.family == "gemma3_text" else [config["rope_parameters"]]:
        rope["rope_theta"] += 1000
    write(directory / "config.json", config)
    stock = CONFIG_MAPPING[pico.family]
    subject = Subject(pico.build(), family_of(registry, pico))
    subject.model.config = stock.from_dict(config)
    files = ParentFiles.find(directory, stock.from_pretrained(directory), tokenizer)
    save_checkpoint(
        subject.model,
        tokenizer,
        tmp_path / "model",
        family=subject.family,
        per_layer=subject.layer_sizes(),
        shapes="uniform",
        provenance={},
        parent=files,
    )
    both = read(tmp_path / "model" / "config.json")
    old = {name: value for name, value in both.items() if name not in NEW_KEYS}
    assert stock.from_dict(dict(both)).to_dict() == stock.from_dict(dict(old)).to_dict()
    assert both.items() >= config.items()


class TestTokenizer:
    def test_what_only_version_5_reads_is_spelled_for_both(
        self, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        directory = saved(Pico("llama", 2), tokenizer, tmp_path / "parent")
        config = read(directory / "tokenizer_config.json") | {"extra_special_tokens": ["<eos>"]}
        assert config["tokenizer_class"] == "TokenizersBackend"
        write(directory / "tokenizer_config.json", config)
        checkpoint = pruned(small_run, directory, tmp_path / "run")
        ours = read(checkpoint / "tokenizer_config.json")
        assert ours.pop("tokenizer_class") == "PreTrainedTokenizerFast"
        assert ours.pop("model_input_names") == ["input_ids", "attention_mask"]
        assert ours.pop("additional_special_tokens") == config["extra_special_tokens"]
        assert ours == {name: config[name] for name in config.keys() - {"tokenizer_class", "extra_special_tokens"}}
        theirs, found = load_tokenizer(str(directory)), load_tokenizer(str(checkpoint))
        assert found("Hello <eos> world").data == theirs("Hello <eos> world").data
        assert found.extra_special_tokens == theirs.extra_special_tokens

    @pytest.mark.parametrize("shapes", ["free", "uniform"])
    def test_the_one_in_use_is_the_one_that_loads(
        self, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, shapes: str, tmp_path: Path
    ) -> None:
        # transformers sets aside what Mistral's files declare, by the model type, which free shapes do not have.
        directory = saved(Pico("mistral", 2), tokenizer, tmp_path / "parent")
        config = read(directory / "tokenizer_config.json") | {"tokenizer_class": "GPT2Tokenizer"}
        write(directory / "tokenizer_config.json", config)
        checkpoint = pruned(small_run, directory, tmp_path / "run", shapes=shapes, units=("mlp",))
        theirs, found = load_tokenizer(str(directory)), load_tokenizer(str(checkpoint))
        assert type(found) is type(theirs)
        assert found(" a  text").data == theirs(" a  text").data
        declared = read(checkpoint / "tokenizer_config.json")["tokenizer_class"]
        assert declared == ("GPT2Tokenizer" if shapes == "uniform" else "PreTrainedTokenizerFast")

    def test_its_code_goes_along_where_it_may_run(self, small_run: RunConfig, parent: Path, tmp_path: Path) -> None:
        shutil.copytree(parent, tmp_path / "parent")
        directory = tmp_path / "parent"
        (directory / "tokenization_mine.py").write_text(
            "from transformers import PreTrainedTokenizerFast\n\n\nclass MineFast(PreTrainedTokenizerFast):\n    pass\n"
        )
        mine = {"tokenizer_class": "MineFast", "auto_map": {"AutoTokenizer": [None, "tokenization_mine.MineFast"]}}
        write(directory / "tokenizer_config.json", read(directory / "tokenizer_config.json") | mine)
        config = read(directory / "config.json")
        del config["auto_map"]
        write(directory / "config.json", config)
        checkpoint = pruned(small_run, directory, tmp_path / "run", trust_remote_code=True)
        assert (checkpoint / "tokenization_mine.py").read_text() == (directory / "tokenization_mine.py").read_text()
        assert not (checkpoint / "modeling_mine.py").exists()
        assert type(AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)).__name__ == "MineFast"


class TestLinks:
    def test_to_something_else_are_refused_before_the_run(
        self, small_run: RunConfig, parent: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("mine alone")
        shutil.copytree(parent, tmp_path / "parent")
        (tmp_path / "parent" / "merges.txt").symlink_to(tmp_path / "secret")
        with pytest.raises(BonsaiError, match=r"merges.txt is a link to .*secret.* Put the file itself there"):
            pruned(small_run, tmp_path / "parent", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_of_a_licence_to_something_else_are_left_out(
        self, small_run: RunConfig, parent: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("mine alone")
        shutil.copytree(parent, tmp_path / "parent")
        (tmp_path / "parent" / "LICENSE").symlink_to(tmp_path / "secret")
        (tmp_path / "parent" / "NOTICE").write_text("theirs")
        checkpoint = pruned(small_run, tmp_path / "parent", tmp_path / "run")
        assert (checkpoint / "NOTICE").read_text() == "theirs"
        assert not (checkpoint / "LICENSE").exists()

    def test_to_such_a_file_elsewhere_are_followed(self, small_run: RunConfig, parent: Path, tmp_path: Path) -> None:
        (tmp_path / "parent").mkdir()
        for file in parent.iterdir():
            (tmp_path / "parent" / file.name).symlink_to(file)
        check_kept(parent, pruned(small_run, tmp_path / "parent", tmp_path / "run", units=("mlp",)))

    def test_of_a_hubs_cache_are_followed(self, parent: Path, tmp_path: Path, tokenizer: Any) -> None:
        snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for number, name in enumerate(("config.json", "tokenizer.json", "tokenizer.model")):
            shutil.copyfile(parent / name, blobs / str(number))
            (snapshot / name).symlink_to(blobs / str(number))
        config = CONFIG_MAPPING["llama"].from_pretrained(snapshot)
        assert ParentFiles.find(snapshot, config, tokenizer).names == ("tokenizer.json", "tokenizer.model")


class TestLayersByNumber:
    def said(self, small_run: RunConfig, parent: Path, out: Path, **settings: Any) -> tuple[str, str]:
        """What a run promises, and what it warns of."""
        registry = Registry()
        registry.register(listener := Listener(), "the listener")
        base = {**small_run.model_dump(), "model": str(parent), "out": out, "latency": False, **settings}
        run(RunConfig.model_validate(base), registry=registry)
        promises = [event.runtimes for event in listener.events if isinstance(event, RunStarted)]
        return promises[0], " ".join(event.text for event in listener.events if isinstance(event, Warned))

    def test_are_told_of_before_layers_leave(
        self, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        parent = saved(Pico("smollm3", 2), tokenizer, tmp_path / "parent")
        promised, warned = self.said(small_run, parent, tmp_path / "depth", units=("layer",))
        assert (
            promised == "transformers 4.57 and newer, and runtimes that read the kind of every layer from config.json"
        )
        assert "not all of one kind (no_rope_layers)" in warned
        assert "unless the layers that leave are the last ones: --protect" in warned
        promised, warned = self.said(small_run, parent, tmp_path / "uniform", units=("mlp",), shapes="uniform")
        assert "every runtime" in promised
        assert "kind" not in warned

    def test_are_not_told_of_where_only_the_last_may_leave(
        self, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        parent = saved(Pico("smollm3", 2), tokenizer, tmp_path / "parent")
        promised, warned = self.said(small_run, parent, tmp_path / "run", units=("layer",), protect=(0, 1))
        assert "every runtime" in promised
        assert "kind" not in warned

    def test_are_not_told_of_where_all_are_alike(self, small_run: RunConfig, parent: Path, tmp_path: Path) -> None:
        promised, warned = self.said(small_run, parent, tmp_path / "run", units=("layer",))
        assert "every runtime" in promised
        assert "kind" not in warned

    def test_whole_periods_are_safe(
        self, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        config = Pico("gemma2", 2, tied=True).config.to_dict() | {"num_hidden_layers": 4, "layer_types": None}
        parent = saved(Pico("gemma2", 2, tied=True), tokenizer, tmp_path / "parent")
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["gemma2"].from_dict(config))
        model.save_pretrained(parent)
        _, warned = self.said(small_run, parent, tmp_path / "run", units=("layer",))
        assert "not all of one kind (layer_types)" in warned
        assert "are the last ones, or 2 consecutive ones at once: --protect" in warned

    def test_what_is_said_of_each_follows_those_that_stay(self) -> None:
        sizes = {"num_hidden_layers": 5, "num_attention_heads": 4, "hidden_size": 32}
        windows = {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 8}
        config = CONFIG_MAPPING["qwen2"](**sizes, **windows)
        set_layers(config, [0, 3, 4])
        assert config.num_hidden_layers == 3
        assert config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
        assert config.max_window_layers == 1
        mixture = CONFIG_MAPPING["qwen2_moe"](**sizes, mlp_only_layers=[1], decoder_sparse_step=2)
        set_layers(mixture, [0, 3, 4])
        assert (mixture.mlp_only_layers, mixture.decoder_sparse_step) == ([0, 2], 1)
        bases = CONFIG_MAPPING["granite_swa"](**sizes, layer_rope_theta=[1.0, 2.0, 3.0, 4.0, 5.0])
        set_layers(bases, [0, 3, 4])
        assert bases.layer_rope_theta == [1.0, 4.0, 5.0]


class TestWeightBytes:
    def test_files_that_are_not_loaded_do_not_count(self, small_run: RunConfig, parent: Path) -> None:
        size = (parent / "model.safetensors").stat().st_size
        assert (parent / "consolidated.safetensors").stat().st_size == size
        assert measured(small_run, parent)["weight_bytes"] == weight_bytes(parent) == size

    def test_the_index_says_which_are(self, tmp_path: Path) -> None:
        for number, name in enumerate(("a", "b", "c")):
            (tmp_path / f"{name}.safetensors").write_bytes(b"x" * (number + 1))
        outside = tmp_path / "inner"
        outside.mkdir()
        index = outside / "model.safetensors.index.json"
        for name in ("a", "b"):
            shutil.copyfile(tmp_path / f"{name}.safetensors", outside / f"{name}.safetensors")
        write(index, {"weight_map": {"v": "a.safetensors", "w": "b.safetensors", "x": "../c.safetensors", "y": "gone"}})
        assert weight_bytes(outside) == 3
        index.write_text("{")
        assert weight_bytes(outside) == 0
