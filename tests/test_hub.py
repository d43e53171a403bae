"""Data sets of the hub and chats: how they are named, found and rendered. The data sets are folders here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from bonsai_core import BonsaiError
from bonsai_core.sources import Text, load_evaluation_text, load_metric_text, load_text, tokenize

Write = Callable[..., None]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<{{ message['role'] }}>{{ message['content'] }}<eos>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def documents(what: str, number: int) -> list[str]:
    return [f"The {what} document {n}. " * 5 for n in range(number)]


def chat(number: int, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": f"Question {number}?"}, {"role": "assistant", "content": f"Answer\n\n{number}."}]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes `owner/NAME`, or what NAME says, with a file of rows per configuration and split; no hub knows of them."""
    hub = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for function in ("load_dataset", "get_dataset_config_names"):
        real = getattr(datasets, function)

        def local(name: str, *args: Any, real: Callable[..., Any] = real, **settings: Any) -> Any:
            return real(str(hub / name), *args, **settings)

        monkeypatch.setattr(datasets, function, local)

    def write(name: str, **configs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        folder = hub / name if "/" in name else hub / "owner" / name
        lines = ["---", "configs:"]
        for config, splits in configs.items():
            lines += [f"- config_name: {config}", "  data_files:"]
            for split, rows in splits.items():
                file = folder / config / f"{split}.jsonl"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
                lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
        (folder / "README.md").write_text("\n".join([*lines, "---\n"]), encoding="utf-8")

    return write


def rows(what: str, number: int = 20, column: str = "text", **others: Any) -> list[dict[str, Any]]:
    return [{column: document, **others} for document in documents(what, number)]


def content(what: str, number: int = 20) -> str:
    return "\n\n".join(documents(what, number))


class TestNames:
    def test_a_configuration_is_named(self, write: Write) -> None:
        write("two", en={"train": rows("English"), "test": rows("test", 5)}, de={"train": rows("German")})
        calibration, evaluation = load_text("owner/two[en]")
        assert (calibration.text, calibration.split) == (content("English"), "train")
        assert (evaluation.text, evaluation.split) == (content("test", 5), "test")
        assert load_metric_text("owner/two[de]").text == content("German")
        for name, message in (
            ("owner/two", r"several configurations.*en, de, as in owner/two\[en\]"),
            ("owner/two[fr]", r"no configuration 'fr'.*en, de, as in owner/two\[en\]"),
        ):
            with pytest.raises(BonsaiError, match=message):
                load_text(name)

    def test_a_language_is_named(self, write: Write) -> None:
        german = {"train": rows("German"), "validation": rows("held out", 5)}
        write("allenai/c4", de=german, fr={"train": rows("French"), "validation": rows("autre", 5)})
        write("wikimedia/wikipedia", **{"20231101.de": {"train": rows("article")}})
        calibration, evaluation = load_text("c4[de]")
        assert (calibration.text, evaluation.text) == (content("German"), content("held out", 5))
        assert calibration.describe().items() >= {"name": "c4[de]", "config": "de", "split": "train"}.items()
        head, tail = load_text("wikipedia[de]")
        assert head.text + tail.text == content("article")
        both, _ = load_text("c4[de]:0.5,c4[fr]:0.5")
        assert [part.text for part in both.parts] == [content("German"), content("French")]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("wikipedia", r"wikipedia takes a language and nothing else, as wikipedia\[de\]"),
            ("c4[de]:train", r"c4 takes a language.*write the hub's own name: allenai/c4\[de\]:split#column"),
            ("c4[tlh]", r"'allenai/c4' has no configuration 'tlh'.*de, fr, as in allenai/c4\[de\]"),
            ("wikitext2[de]", "only data sets of the hub have configurations"),
        ],
    )
    def test_a_language_that_is_not_there_is_refused(self, write: Write, name: str, message: str) -> None:
        write("allenai/c4", de={"train": rows("German")}, fr={"train": rows("French")})
        with pytest.raises(BonsaiError, match=message):
            load_text(name)

    def test_a_split_is_named(self, write: Write) -> None:
        write("own", default={"train": rows("first"), "test": rows("second")})
        for name, split, what in (
            ("owner/own:train", "train", "first"),
            ("owner/own:test", "test", "second"),
            ("owner/own", "test", "second"),
        ):
            evaluation = load_evaluation_text(name)
            assert (evaluation.split, evaluation.text) == (split, content(what))
        assert load_text("owner/own:train")[1].text == content("second")
        head, tail = load_text("owner/own:test")  # where nothing else is for evaluation
        assert head.text + tail.text == content("second")
        with pytest.raises(BonsaiError, match=r"no split 'tset', only train, test.*as in owner/own:train"):
            load_text("owner/own:tset")

    def test_without_a_split_to_train_on_one_has_to_be_named(self, write: Write) -> None:
        write("odd", default={"alpha": rows("first"), "beta": rows("second")})
        with pytest.raises(BonsaiError, match=r"no split 'train', only alpha, beta.*as in owner/odd:alpha"):
            load_text("owner/odd")
        head, tail = load_text("owner/odd:beta")
        assert head.text + tail.text == content("second")

    def test_the_column_is_found_or_named(self, write: Write) -> None:
        write("only", default={"train": rows("content", column="content", number_of=1)})
        write("many", default={"train": rows("question", column="question", answer="42", stars=5)})
        found = load_metric_text("owner/only")
        assert (found.text, found.column) == (content("content"), "content")
        assert load_metric_text("owner/many#question").text == content("question")
        for name, message in (
            (
                "owner/many",
                r"no column 'text' or 'messages' or .* question, answer, stars\..*NAME\[config\]:split#column",
            ),
            ("owner/many#stars", '"stars" is a int. Its fields: question, answer, stars'),
            ("owner/many#nothing", 'there is no "nothing". Its fields: question, answer, stars'),
        ):
            with pytest.raises(BonsaiError, match=message):
                load_text(name)

    def test_what_was_named_is_recorded(self, write: Write) -> None:
        write("two", en={"train": rows("English"), "test": rows("test", 5)}, de={"train": rows("German")})
        facts = [text.describe() for text in load_text("owner/two[en]:train#text")]
        assert [(fact["name"], fact["config"], fact["split"], fact["column"]) for fact in facts] == [
            ("owner/two[en]:train#text", "en", split, "text") for split in ("train", "test")
        ]

    @pytest.mark.parametrize(
        "name", ["owner/two[en", "owner/two]", "owner/two#", "owner/two[]", ":train", "a:b:c", "https://host/a"]
    )
    def test_what_cannot_be_read_is_told_how_it_is_written(self, name: str) -> None:
        with pytest.raises(BonsaiError, match=r"NAME\[config\]:split#column"):
            load_text(name)

    @pytest.mark.parametrize("name", ["builtin:train", "wikitext2[raw]", "rows.jsonl#content"])
    def test_files_and_named_texts_have_no_such_parts(self, name: str) -> None:
        with pytest.raises(BonsaiError, match="only data sets of the hub"):
            load_text(name)


@pytest.fixture(params=["file", "hub"])
def chats(request: pytest.FixtureRequest, write: Write, tmp_path: Path) -> Callable[[list[Any]], Text]:
    """Loads conversations from a file, or from the hub."""

    def load(conversations: list[Any]) -> Text:
        found = [{"messages": messages, "source": "here"} for messages in conversations]
        if request.param == "hub":
            write("chats", default={"train": found})
            return load_metric_text("owner/chats")
        path = tmp_path / "chats.jsonl"
        path.write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
        return load_metric_text(str(path))

    return load


class TestChats:
    @pytest.fixture
    def talking(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        """The tokenizer with a chat template."""
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", chat_template=TEMPLATE
        )

    def test_they_go_through_the_template(self, chats: Any, talking: PreTrainedTokenizerFast) -> None:
        text = chats([chat(number) for number in range(30)])
        assert text.describe()["column"] == "messages"
        expected = "".join(
            f"<user>Question {n}?<eos>\n<assistant>Answer\n\n{n}.<eos>\n" for n in range(30)
        )  # no prompt for another answer
        ids = talking(expected, add_special_tokens=False)["input_ids"]
        assert ids.count(talking.eos_token_id) == 60
        np.testing.assert_array_equal(tokenize(text, talking), ids)

    @pytest.mark.parametrize("column", ["messages", "conversations"])
    def test_they_may_be_called_otherwise(self, tmp_path: Path, write: Write, column: str) -> None:
        senders = {"user": "human", "assistant": "gpt"}
        chats = [[{"from": senders[m["role"]], "value": m["content"]} for m in chat(n)] for n in range(20)]
        found = [{column: messages} for messages in chats]
        path = tmp_path / "chats.jsonl"
        path.write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
        write("chats", default={"train": found})
        for text in (load_metric_text(str(path)), load_metric_text("owner/chats")):
            assert text.column == column
            assert [json.loads(line) for line in text.text.split("\n\n")] == [chat(n) for n in range(20)]

    def test_a_tokenizer_without_a_template(self, chats: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(BonsaiError, match="has no chat template"):
            tokenize(chats([chat(1)]), tokenizer)

    def test_a_conversation_that_the_template_refuses(self, chats: Any, talking: PreTrainedTokenizerFast) -> None:
        with pytest.raises(BonsaiError, match=r"refuses a conversation.*no system here"):
            tokenize(chats([chat(1), chat(2, "system")]), talking)

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ([{"role": "user", "content": None}], '"content" must be text.*fields: role, content'),
            ([{"role": "user"}], '"content" must be text'),
            ([{"from": "human", "text": "Hi"}], '"content" must be text.*fields: from, text'),
            ([{"from": ["human"], "value": "Hi"}], '"role" must be text'),
            ([{"sender": "human", "value": "Hi"}], '"role" must be text.*fields: sender, value'),
            (["Hi"], "message 1 is a str, not an object"),
        ],
    )
    def test_messages_that_are_none(self, chats: Any, messages: list[Any], message: str) -> None:
        with pytest.raises(BonsaiError, match=message):
            chats([messages])

    def test_all_rows_are_alike(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        for first, second, message in (
            ({"messages": chat(1)}, {"messages": "text"}, '"messages" is a str'),
            ({"messages": chat(1)}, {"text": "text"}, 'there is no "messages"'),
            ({"text": "text"}, {"messages": chat(1)}, 'there is no "text"'),
        ):
            path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n", encoding="utf-8")
            with pytest.raises(BonsaiError, match=f"line 2: {message}"):
                load_text(str(path))

    def test_a_large_file_is_divided_between_two_of_them(
        self, tmp_path: Path, talking: PreTrainedTokenizerFast
    ) -> None:
        conversations = [[*chat(n), {"role": "user", "content": "word " * 1_000}] for n in range(1_100)]
        path = tmp_path / "chats.jsonl"
        path.write_text("\n".join(json.dumps({"messages": messages}) for messages in conversations), encoding="utf-8")
        head, tail = load_text(str(path))
        assert head.is_large
        assert [json.loads(line) for line in (head.text + tail.text).split("\n\n")] == conversations
        assert talking.decode(tokenize(head, talking, enough=9)[:20]).startswith("<user>Question 0?<eos>")
        assert talking.decode(tokenize(tail, talking)[:20]).startswith("<user>Question 880?<eos>")
