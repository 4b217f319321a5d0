"""Models of transformers that read pictures, by the name of their folder: strictly loaded, and tuned."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("torchvision")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file

from tests.generative.tasks.world import records
from tests.generative.tiny_folders import FOLDERS
from vlmadapt import generative
from vlmadapt.errors import FileError, InputError
from vlmadapt.generative.data.records import TaskName
from vlmadapt.generative.methods.registry import METHODS
from vlmadapt.generative.models import load_generative
from vlmadapt.generative.models.host_words import HostTokenizer, Layout, chat_layout
from vlmadapt.generative.models.load import LOADED
from vlmadapt.generative.models.loaded_host import LoadedHost
from vlmadapt.generative.tasks import VQATask
from vlmadapt.generative.tuning import predictions_of

SIZES = {"bottleneck": ":width=4", "prefix": ":length=3", "lora": ":rank=2", "rslora": ":rank=2", "p-": ":reduction=4"}
ALL = [
    name + next((size for start, size in SIZES.items() if name.startswith(start)), "")
    for name in METHODS
    if name != "p-adapter-released"  # it keeps node features in the cache, which is the model's own here
]

FEW: dict[str, Any] = {"batch_size": 2, "train_limit": 4, "val_limit": 2, "test_limit": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def name_of(folders: Path, kind: str) -> str:
    folder = folders / kind.replace("/", ".")
    if not folder.exists():
        FOLDERS[kind](folder)
    return f"{kind.partition('/')[0]}:{folder}"


@pytest.fixture
def llava(folders: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(name_of(folders, "llava").partition(":")[2], tmp_path / "spoilt"))


# One family takes every method on every task, the others take turns.
CASES: list[tuple[str, TaskName, list[str]]] = [("llava", task, ALL) for task in ("caption", "vqa", "entailment")]
CASES += [
    ("qwen-vl/2", "vqa", ["full", "bitfit", "p-adapter:reduction=4"]),
    ("qwen-vl/2.5", "entailment", ["prefix:length=3", "bottleneck:width=4", "p-adapter-paper:reduction=4"]),
    ("smolvlm/Idefics3", "caption", ["full", "prefix:length=3", "p-adapter:reduction=4"]),
    ("smolvlm/SmolVLM", "vqa", ["full", "bottleneck:width=4", "p-adapter:reduction=4"]),
    ("paligemma", "vqa", ["full", "prefix:length=3", "p-adapter-paper:reduction=4"]),
]


@pytest.mark.parametrize(("kind", "task", "methods"), CASES)
def test_methods_tune_it(folders: Path, kind: str, task: TaskName, methods: list[str], tmp_path: Path) -> None:
    if task == "caption":
        pytest.importorskip("pycocoevalcap")
    results = generative.tune(
        task=task,
        data=records(task, tmp_path),
        model=name_of(folders, kind),
        methods=[*methods, "lora:rank=2:blind=yes"],
        epochs=1,
        settings={"longest": 3, "beams": 2},
        out=tmp_path / "out",
        **FEW,
    )
    assert [cell.method for cell in results.cells] == [*methods, "lora:rank=2:blind=yes"]
    assert results.model["name"] == f"{kind.partition('/')[0]}:{kind.replace('/', '.')}"
    assert all(cell.trainable_parameters > 0 for cell in results.cells if cell.adapter != "frozen")
    assert len(predictions_of(tmp_path / "out", methods[0], 0)) == 2


def test_interrupted_tuning_goes_on_and_ends_where_it_would_have(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "task": "vqa", "data": records("vqa", tmp_path), "model": name_of(folders, "llava"),
        "methods": ("bitfit", "p-adapter:reduction=4"), "epochs": 2, **FEW,
        "settings": {"answering": "generate", "longest": 3, "beams": 1},
    }  # fmt: skip
    whole = generative.tune(**options, out=tmp_path / "whole")
    original, calls = VQATask.loss, []

    def interrupted(self: Any, indices: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 7:  # in the second epoch of the second method
            raise KeyboardInterrupt
        return original(self, indices)

    monkeypatch.setattr(VQATask, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generative.tune(**options, out=tmp_path / "cut")
    monkeypatch.setattr(VQATask, "loss", original)
    again = generative.tune(**options, out=tmp_path / "cut")
    assert [(cell.values, cell.validation) for cell in again.cells] == [
        (cell.values, cell.validation) for cell in whole.cells
    ]
    found = [sorted((tmp_path / run / "fits").rglob("adapter.safetensors")) for run in ("whole", "cut")]
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("kind", FOLDERS)
def test_weights_are_neither_left_over_nor_missing(folders: Path, kind: str, tmp_path: Path) -> None:
    family, _, place = name_of(folders, kind).partition(":")
    assert load_generative(f"{family}:{place}").model.dtype == torch.float32
    folder = Path(shutil.copytree(place, tmp_path / "spoilt"))
    weights = load_file(folder / "model.safetensors")
    name = sorted(name for name in weights if "layers.0" in name)[0]
    for spoilt, said in (
        ({key: value for key, value in weights.items() if key != name}, "lack .*layers.0"),
        ({**weights, "model.more": weights[name].clone()}, "hold an unknown .*more"),
        ({**weights, name: torch.zeros(3, 5)}, "could not be read"),
    ):
        save_file(spoilt, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(FileError, match=f"weights of .*spoilt {said}|weights of .*spoilt could not be read"):
            load_generative(f"{family}:{folder}")


def test_folders_that_cannot_be_used(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is no folder: give one that save_pretrained wrote, or allow the download"):
        load_generative("llava:llava-hf/llava-1.5-7b-hf")
    with pytest.raises(FileError, match=r"it has no config\.json"):
        load_generative(f"llava:{tmp_path}")
    for family in LOADED:
        if isinstance(family, LoadedHost) and family.name != "llava":
            with pytest.raises(InputError, match="holds the architecture LlavaForConditionalGeneration: give a folder"):
                load_generative(f"{family.name}:{llava}")
    template = (llava / "chat_template.jinja").read_text()
    for text, said in (
        ("{{ raise_exception('no pictures') }}", "takes no picture with a question: no pictures"),
        ("{{ messages[0]['content'][1]['text'] }}<image>:", "makes 'question-.*<image>:' of a picture and a question"),
        ("<image>{{ messages[0]['content'][1]['text'] }}", "makes '<image>question-[^:]*' of a picture and"),
    ):
        (llava / "chat_template.jinja").write_text(text)
        with pytest.raises(FileError, match=said):
            load_generative(f"llava:{llava}")
    (llava / "chat_template.jinja").unlink()
    with pytest.raises(FileError, match="has no chat template: add the chat_template"):
        load_generative(f"llava:{llava}")
    (llava / "chat_template.jinja").write_text(template)
    (llava / "processor_config.json").unlink()
    with pytest.raises(FileError, match="spoilt"):
        load_generative(f"llava:{llava}")


def test_a_pixtral_tower_is_refused(llava: Path) -> None:
    from vlmadapt.generative.models.load import task_model

    loaded = load_generative(f"llava:{llava}")
    loaded.model.config.vision_config.model_type = "pixtral"  # type: ignore[union-attr]
    with pytest.raises(InputError, match="has a Pixtral tower, which is not known here"):
        task_model(loaded)


def test_a_folders_generation_says_what_ends_an_answer_where_its_chat_does_not(llava: Path) -> None:
    path = llava / "generation_config.json"
    settings = json.loads(path.read_text())
    for end, said in ((9, 9), ([7, 2], 7), (None, 2)):
        path.write_text(json.dumps({**settings, "eos_token_id": end}))
        assert load_generative(f"llava:{llava}").tokenizer.sep == said


def test_a_picture_that_leaves_no_room_is_refused(llava: Path) -> None:
    from vlmadapt.generative.models.load import task_model

    loaded = load_generative(f"llava:{llava}")
    view: Any = task_model(loaded)
    view.positions = 70
    with pytest.raises(InputError, match=r"are \d+ tokens, which leaves no 64 of the model's 70 positions"):
        view.read(torch.zeros(1, 4, 16), ["is it red?"])


class Words:
    """A processor whose tokenizer runs letters together."""

    image_token, chat_template = "<image>", "there"
    all_special_tokens = ("<image>",)
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
    pad_token_id, eos_token_id, bos_token = None, 1, None

    @property
    def tokenizer(self) -> Any:
        return self

    def __len__(self) -> int:
        return 500

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        text = text.replace("::", "&")
        return {"input_ids": [ord(letter) for letter in text.replace("<image>", "@")]}

    def convert_tokens_to_ids(self, token: str) -> int:
        return ord("@")

    def convert_ids_to_tokens(self, number: int) -> str:
        return chr(number)

    def decode(self, numbers: list[int], **options: Any) -> str:
        return "".join(map(chr, numbers))


def test_words_that_run_into_the_chat_are_told_apart_or_refused() -> None:
    words = HostTokenizer(Words(), Layout("<image>", ":"), None)
    assert (words.bos, words.sep, words.pad) == (ord(":"), 1, 1)
    assert words.encode("red") == [*map(ord, "red")] and words.encode(":red") == [*map(ord, ":red")]
    assert words.encode("") == []
    assert words.prompt("red", "@@", 9) == [*map(ord, "@@red:")]
    assert words.prompt("red green", "@", 3) == [*map(ord, "@red:")]
    with pytest.raises(InputError, match="'red:' runs into what follows it in this model's chat"):
        words.prompt("red:", "@", 9)


def test_an_answer_has_an_end() -> None:
    processor = Words()
    processor.eos_token_id = None  # type: ignore[assignment]
    assert HostTokenizer(processor, Layout("<image>", ":"), 3).sep == 3
    with pytest.raises(InputError, match="name no token that ends an answer: give generation_config"):
        HostTokenizer(processor, Layout("<image>", ":"), None)


def test_a_template_without_answers_has_a_layout() -> None:
    class Processor(Words):
        def apply_chat_template(self, messages: list[Any], add_generation_prompt: bool, tokenize: bool) -> str:
            text = messages[0]["content"][1]["text"]
            return f"<image>{text}:" if add_generation_prompt else "nothing"

    assert chat_layout("here", Processor()) == Layout("<image>", ":")
