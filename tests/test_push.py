"""Checkpoints on the Hugging Face hub: the real client against a hub on loopback."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Listener, StoppedError, Stopper
from fake_hub import ORGANISATION, TOKEN, USER, FakeHub, fake_hub
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bonsai_core import AdaptConfig, BonsaiError, Registry, RunConfig, adapt, export, hookimpl, push, resume, run
from bonsai_core.cli.commands.prune import resume as resume_command
from bonsai_core.cli.commands.prune import run as run_command
from bonsai_core.cli.settings import installed
from bonsai_core.events import Event, RoundFinished, Stage, StageStarted, Warned
from bonsai_core.rundir import RunDirectory

NAME = f"{USER}/small"
ADAPTATION: dict[str, Any] = {
    "steps": 1,
    "batch_size": 1,
    "sequence_length": 16,
    "evaluations": 1,
    "teacher": "none",
    "device": "cpu",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def finished(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing was pushed of."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    return run(small_run.model_copy(update={"out": out, "latency": False})).directory


def configured(small_run: RunConfig, out: Path, **settings: Any) -> RunConfig:
    return small_run.model_copy(update={"out": out, "latency": False, "push_to_hub": NAME, **settings})


def told_to_push(config: Path) -> None:
    """Change the stored settings of a run, which pushes nothing."""
    text = config.read_text(encoding="utf-8")
    assert "push_to_hub: null\n" in text
    config.write_text(text.replace("push_to_hub: null\n", f"push_to_hub: {NAME}\n"), encoding="utf-8")


def private_words(small_run: RunConfig, *paths: Path) -> list[bytes]:
    """What must not be published: folders, and the access token."""
    folders = {Path(small_run.model).parent, Path(small_run.dataset).parent, Path.home(), Path.cwd(), *paths}
    return [TOKEN.encode(), *(f"{folder}/".encode() for folder in folders)]


def assert_publishable(files: dict[str, bytes], words: list[bytes]) -> None:
    found = [(name, word) for name, content in files.items() for word in words if word in content]
    assert not found


def test_a_run_pushes_its_checkpoint_and_nothing_else(small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
    result = run(configured(small_run, tmp_path / "run"))
    assert result.pushed == f"{hub.address}/{NAME}"
    files = hub.repositories[NAME]
    assert files.keys() - {".gitattributes"} == {file.name for file in result.model_path.iterdir()}
    assert files["model.safetensors"] == (result.model_path / "model.safetensors").read_bytes()
    assert_publishable(files, private_words(small_run, tmp_path))
    assert f'from_pretrained("{NAME}"' in files["README.md"].decode()
    assert not hub.private


def test_what_is_on_the_hub_loads(finished: Path, hub: FakeHub, tmp_path: Path) -> None:
    push(str(finished), NAME)
    (tmp_path / "fetched").mkdir()
    for name, content in hub.repositories[NAME].items():
        (tmp_path / "fetched" / name).write_bytes(content)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "fetched", trust_remote_code=True)
    assert sum(parameter.numel() for parameter in model.parameters())


def test_pushing_changes_no_result(small_run: RunConfig, finished: Path, hub: FakeHub, tmp_path: Path) -> None:
    result = run(configured(small_run, tmp_path / "run", private=True))
    assert hub.private == {NAME}
    for name in ("model.safetensors", "config.json", "bonsai.json", "README.md"):
        assert (result.model_path / name).read_bytes() == (finished / "model" / name).read_bytes(), name
    before = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert before["config"] == result.report["config"]


def test_an_adaptation_pushes_its_own(finished: Path, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
    name = f"{ORGANISATION}/recovered"
    base = {**ADAPTATION, "model": str(finished), "out": tmp_path / "adapted", "push_to_hub": name}
    result = adapt(AdaptConfig.model_validate(base))
    assert result.pushed == f"{hub.address}/{name}"
    files = hub.repositories[name]
    assert files["model.safetensors"] == (result.model_path / "model.safetensors").read_bytes()
    assert_publishable(files, private_words(small_run, tmp_path, finished))


def test_a_run_with_an_adaptation_pushes_what_came_out_last(small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"{name}: {value}\n" for name, value in ADAPTATION.items()), encoding="utf-8")
    result = run(configured(small_run, tmp_path / "run", adapt=str(recipe)))
    assert result.adapted is not None
    assert hub.commits == 1
    pushed = hub.repositories[NAME]
    assert pushed["model.safetensors"] == (result.adapted.model_path / "model.safetensors").read_bytes()
    assert_publishable(pushed, private_words(small_run, tmp_path))


@pytest.mark.parametrize(("format", "file"), [("hf", "model.safetensors"), ("plan", "plan.json")])
def test_an_export_is_pushed_as_it_is(
    finished: Path, small_run: RunConfig, hub: FakeHub, tmp_path: Path, format: str, file: str
) -> None:
    exported = export(str(finished), format, tmp_path / "out", push_to_hub=NAME)
    assert exported.pushed == f"{hub.address}/{NAME}"
    files = hub.repositories[NAME]
    assert file in files
    assert NAME in files["README.md"].decode()
    assert_publishable(files, private_words(small_run, tmp_path, finished))


class TestBefore:
    """What cannot work is refused before the work."""

    def refused(self, small_run: RunConfig, out: Path, match: str, name: str = NAME) -> None:
        with pytest.raises(BonsaiError, match=match):
            run(configured(small_run, out, push_to_hub=name))
        assert not out.exists()

    def test_without_a_token(
        self, small_run: RunConfig, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        self.refused(small_run, tmp_path / "run", r"needs an access token.*hf auth login.*HF_TOKEN")

    def test_with_a_token_that_is_not_valid(
        self, small_run: RunConfig, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
        self.refused(small_run, tmp_path / "run", "Cannot push to gardener/small: .*(401|[Ii]nvalid)")

    def test_with_a_token_that_may_only_read(self, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
        hub.role = "read"
        self.refused(small_run, tmp_path / "run", "may only read")

    def test_to_somebody_else(self, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
        self.refused(small_run, tmp_path / "run", "may write to gardener, nursery, not to weeds", "weeds/small")

    def test_by_an_adaptation_that_follows(self, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("steps: 1\npush_to_hub: weeds/small\n", encoding="utf-8")
        with pytest.raises(BonsaiError, match="not to weeds"):
            run(small_run.model_copy(update={"out": tmp_path / "run", "adapt": str(recipe)}))
        assert not (tmp_path / "run").exists()

    def test_without_an_owner(self, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
        self.refused(small_run, tmp_path / "run", "name the owner too", name="pruned")

    def test_without_a_network(self, small_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
        self.refused(small_run, tmp_path / "run", "Cannot push to gardener/small: ")

    @pytest.mark.parametrize("name", ["/home/me/model", "a/b/c", "..", "a b", "me/" + "x" * 100])
    def test_under_a_name_that_none_can_have(self, small_run: RunConfig, name: str) -> None:
        with pytest.raises(BonsaiError, match=r"push_to_hub: .*OWNER/NAME"):
            RunConfig.from_mapping({**small_run.model_dump(), "push_to_hub": name}, "settings")

    def test_what_bonsai_did_not_write(self, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
        with pytest.raises(BonsaiError, match="not a checkpoint that Bonsai wrote"):
            push(small_run.model, NAME)
        with pytest.raises(BonsaiError, match="not a checkpoint that Bonsai wrote"):
            export(small_run.model, "hf", tmp_path / "out", push_to_hub=NAME)
        assert not hub.repositories
        assert not (tmp_path / "out").exists()


class TestAfterwards:
    def test_a_failed_push_loses_nothing_and_is_repeated_by_a_resume(
        self, small_run: RunConfig, hub: FakeHub, tmp_path: Path
    ) -> None:
        hub.refuse = True
        with pytest.raises(BonsaiError, match=rf"All else is done.*bonsai push {tmp_path / 'run'} {NAME}"):
            run(configured(small_run, tmp_path / "run"))
        assert (tmp_path / "run" / "report.json").is_file()
        hub.refuse = False
        assert resume(tmp_path / "run", push_to_hub=NAME).pushed == f"{hub.address}/{NAME}"
        assert hub.commits == 1
        assert resume(tmp_path / "run").pushed == f"{hub.address}/{NAME}"
        assert hub.commits == 1, "it was pushed already"

    def test_a_run_that_was_stopped_pushes_when_it_is_resumed(
        self, small_run: RunConfig, hub: FakeHub, tmp_path: Path
    ) -> None:
        registry = Registry()
        registry.register(Stopper(lambda event: isinstance(event, RoundFinished)), "the stopper")
        with pytest.raises(StoppedError):
            run(configured(small_run, tmp_path / "run"), registry=registry)
        assert not hub.repositories
        resume(tmp_path / "run", push_to_hub=NAME)
        assert "model.safetensors" in hub.repositories[NAME]

    def test_observers_hear_of_it(self, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
        registry = Registry()
        registry.register(listener := Listener(), "the listener")
        run(configured(small_run, tmp_path / "run"), registry=registry)
        stages = [event.stage for event in listener.events if isinstance(event, StageStarted)]
        assert stages[-1] == Stage.PUSH

    def test_no_other_process_can_work_on_it_meanwhile(
        self, small_run: RunConfig, finished: Path, hub: FakeHub, tmp_path: Path
    ) -> None:
        locked: list[bool] = []

        class Asking:
            @hookimpl
            def bonsai_observe(self, event: Event) -> None:
                if isinstance(event, StageStarted) and event.stage == Stage.PUSH:
                    locked.append(bool(RunDirectory(tmp_path / "run").is_locked()))

        registry = Registry()
        registry.register(Asking(), "the question")
        hub.refuse = True
        with pytest.raises(BonsaiError):
            run(configured(small_run, tmp_path / "run"), registry=registry)
        hub.refuse = False
        resume(tmp_path / "run", registry=registry, push_to_hub=NAME)
        (tmp_path / "run" / "pushed.json").unlink()
        (tmp_path / "run").rename(tmp_path / "pruned")
        base = {**ADAPTATION, "model": str(finished), "out": tmp_path / "run", "push_to_hub": NAME}
        adapt(AdaptConfig.model_validate(base), registry=registry)
        assert locked == [True, True, True]
        assert not RunDirectory(tmp_path / "run").is_locked()


class TestResumed:
    """A run directory alone does not decide what is pushed."""

    @pytest.fixture
    def stranger(self, finished: Path, hub: FakeHub, tmp_path: Path) -> Path:
        """A run that somebody else has told to push to a repository of the user's."""
        hub.repositories[NAME] = {"README.md": b"mine", "model-00001-of-00002.safetensors": b"mine"}
        directory = Path(shutil.copytree(finished, tmp_path / "run"))
        told_to_push(directory / "config.yaml")
        return directory

    def test_without_a_word_nothing_is_pushed(self, stranger: Path, hub: FakeHub) -> None:
        registry = Registry()
        registry.register(listener := Listener(), "the listener")
        assert resume(stranger, registry=registry).pushed is None
        assert hub.commits == 0
        (said,) = [event.text for event in listener.events if isinstance(event, Warned) and "push" in event.text]
        assert said.endswith(f"bonsai resume {stranger} --push-to-hub {NAME}")
        assert resume(stranger, registry=registry, push_to_hub=NAME).pushed == f"{hub.address}/{NAME}"
        assert hub.commits == 1

    def test_another_name_than_the_runs_is_refused(self, stranger: Path, hub: FakeHub) -> None:
        with pytest.raises(BonsaiError, match=rf"it pushes to {NAME}.*bonsai push {stranger} {USER}/other"):
            resume(stranger, push_to_hub=f"{USER}/other")
        assert hub.commits == 0

    def test_a_push_that_was_never_asked_for_is_refused(self, finished: Path, hub: FakeHub) -> None:
        with pytest.raises(BonsaiError, match="it pushes nothing"):
            resume(finished, push_to_hub=NAME)
        assert hub.commits == 0

    def test_nor_by_an_adaptation_in_it(self, small_run: RunConfig, hub: FakeHub, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("".join(f"{name}: {value}\n" for name, value in ADAPTATION.items()), encoding="utf-8")
        config = small_run.model_copy(update={"out": tmp_path / "run", "latency": False, "adapt": str(recipe)})
        run(config)
        adapted = tmp_path / "run" / "adapted"
        recipe.write_text(f"{recipe.read_text(encoding='utf-8')}push_to_hub: {NAME}\n", encoding="utf-8")
        told_to_push(adapted / "adapt.yaml")
        resume(tmp_path / "run")
        resume(adapted)
        assert hub.commits == 0
        resume(adapted, push_to_hub=NAME)
        assert hub.commits == 1

    def test_the_command_that_goes_on_after_ctrl_c_loses_nothing(
        self, small_run: RunConfig, hub: FakeHub, tmp_path: Path
    ) -> None:
        class CtrlC:
            @hookimpl
            def bonsai_observe(self, event: Event) -> None:
                if isinstance(event, RoundFinished):
                    raise KeyboardInterrupt

        recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
        recipe.write_text(configured(small_run, out).to_yaml(), encoding="utf-8")
        with installed().observed_by(CtrlC(), "Ctrl-C"):
            stopped = CliRunner().invoke(run_command, ["--config", str(recipe), "--out", str(out)])
        assert f"Continue with: bonsai resume {out} --push-to-hub {NAME}\n" in stopped.output
        words = shlex.split(stopped.output.partition("Continue with: bonsai resume ")[2].splitlines()[0])
        done = CliRunner().invoke(resume_command, words)
        assert done.exit_code == 0, done.output
        assert hub.commits == 1

    def test_the_command_has_the_option(self, stranger: Path, hub: FakeHub) -> None:
        done = CliRunner().invoke(resume_command, [str(stranger), "--push-to-hub", NAME])
        assert done.exit_code == 0, done.output
        assert hub.commits == 1


class TestContents:
    @pytest.fixture
    def copy(self, finished: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(finished, tmp_path / "copy"))

    def test_weights_that_would_be_loaded_instead_leave(self, copy: Path, hub: FakeHub) -> None:
        hub.repositories[NAME] = {"model-00001-of-00002.safetensors": b"", "notes.md": b"mine", "README.md": b"old"}
        push(str(copy), NAME)
        files = hub.repositories[NAME]
        assert "model-00001-of-00002.safetensors" not in files
        assert files["notes.md"] == b"mine"
        assert files["README.md"].startswith(b"---\n")

    @pytest.mark.parametrize("secret", [TOKEN, f"{Path.home()}/models"])
    def test_a_file_with_a_secret_stays_here(self, copy: Path, hub: FakeHub, secret: str) -> None:
        (copy / "model" / "chat_template.jinja").write_text(f"{{# {secret} #}}", encoding="utf-8")
        with pytest.raises(BonsaiError, match=r"chat_template.jinja has .* in it, and was not published"):
            push(str(copy), NAME)
        assert not hub.repositories

    def test_large_files_are_searched_whole_and_of_weights_the_header(self, copy: Path, hub: FakeHub) -> None:
        large = copy / "model" / "merges.txt"
        with large.open("wb") as file:
            file.truncate(30_000_000)
            file.seek(0, os.SEEK_END)
            file.write(TOKEN.encode())
        with pytest.raises(BonsaiError, match=r"merges\.txt has the access token"):
            push(str(copy), NAME)
        large.write_bytes(b"")
        weights = copy / "model" / "model.safetensors"
        save_file(load_file(weights), weights, metadata={"format": "pt", "from": TOKEN})
        with pytest.raises(BonsaiError, match=r"model\.safetensors has the access token"):
            push(str(copy), NAME)
        assert not hub.repositories

    @pytest.mark.parametrize(
        ("home", "text", "refused"),
        [
            (r"C:\Users\ann", r"C:\Users\ann\models", True),
            (r"C:\Users\ann", json.dumps(r"C:\Users\ann\models"), True),
            (r"C:\Users\ann", "C:/Users/ann/models", True),
            (r"C:\Users\ann", r"C:\Users\anne\models", False),
            ("/home/zoë", json.dumps("/home/zoë/models"), True),
            ("/root", "'/root/models'", True),
            ("/root", '{"/root/": 7, "a/root/b": 8}', False),
            ("/", "/anything", False),
        ],
    )
    def test_homes_are_found_as_any_system_writes_them(
        self, copy: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, home: str, text: str, refused: bool
    ) -> None:
        monkeypatch.setattr(Path, "home", lambda: Path(home))
        (copy / "model" / "notes.txt").write_text(text, encoding="utf-8")
        with pytest.raises(BonsaiError, match="home directory") if refused else nullcontext():
            push(str(copy), NAME)

    def test_damaged_json_is_refused(self, copy: Path, hub: FakeHub) -> None:
        (copy / "model" / "generation_config.json").write_text("{", encoding="utf-8")
        with pytest.raises(BonsaiError, match=r"generation_config\.json"):
            push(str(copy), NAME)

    def test_hidden_files_stay_here_and_links_are_refused(self, copy: Path, hub: FakeHub, tmp_path: Path) -> None:
        (copy / "model" / ".env").write_text("mine alone")
        push(str(copy), NAME)
        assert ".env" not in hub.repositories[NAME]
        (tmp_path / "secret").write_text("mine alone")
        (copy / "model" / "notes.txt").symlink_to(tmp_path / "secret")
        with pytest.raises(BonsaiError, match="symbolic link"):
            push(str(copy), NAME)

    def test_a_private_push_to_what_everybody_sees_is_refused(self, copy: Path, hub: FakeHub) -> None:
        hub.repositories[NAME] = {}
        with pytest.raises(BonsaiError, match="everybody sees it"):
            push(str(copy), NAME, private=True)
        assert not hub.repositories[NAME]

    def test_names_of_places_in_other_libraries_files_lose_their_folders(self, copy: Path, hub: FakeHub) -> None:
        file = copy / "model" / "config.json"
        values = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**values, "_name_or_path": "/srv/people/ann/llama"}), encoding="utf-8")
        push(str(copy), NAME)
        assert json.loads(hub.repositories[NAME]["config.json"])["_name_or_path"] == "llama"


def test_the_command_pushes_with_the_endpoint_and_token_of_the_environment(finished: Path, hub: FakeHub) -> None:
    code = "from bonsai_core.cli import main; main()"
    command = [sys.executable, "-c", code, "push", str(finished), NAME, "--private"]
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"pushed to {hub.address}/{NAME}\n"
    assert hub.private == {NAME}
