"""A tuned model on new pictures: from a file of one's own to answers, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.generative.tasks.world import COLOURS, model, tokenizer
from vlmadapt.cli import app
from vlmadapt.errors import FileError, InputError
from vlmadapt.generative import Tuned, tune
from vlmadapt.generative.data.own import read_own
from vlmadapt.generative.data.records import TaskName
from vlmadapt.generative.models.small import save_small
from vlmadapt.generative.tuned import TUNED

pytest.importorskip("transformers")
ASKED = {"caption": "", "vqa": "what colour is it ?", "entailment": "it is red"}
TASKS: tuple[TaskName, ...] = ("caption", "vqa", "entailment")


def own_file(folder: Path, task: TaskName) -> Path:
    """Two lines a picture of a plain colour, in a file beside the pictures."""
    lines = []
    for number in range(24):
        name, colour = [*COLOURS.items()][number % 4]
        shade = tuple(max(0, value - number) for value in colour)
        Image.new("RGB", (16, 16), shade).save(folder / f"{number}.png")
        said: dict[str, Any] = {"caption": {"caption": f"a plain {name} picture"}}
        said["vqa"] = {"question": "what colour is it ?", "answers": [name, name, "dark"]}
        said["entailment"] = {"hypothesis": f"it is {name}", "label": "entailment" if number % 3 else "no"}
        lines.append(json.dumps({"image": f"{number}.png", **said[task]}))
    path = folder / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def tuned_run(folder: Path, task: TaskName, given: Any = None, **more: Any) -> Path:
    options: dict[str, Any] = {"methods": ("frozen", "bitfit"), "epochs": 1, "batch_size": 8, "device": "cpu", **more}
    tune(task=task, data=own_file(folder, task), model=given or model(task), out=folder / "run", **options)
    return folder / "run"


@pytest.mark.parametrize("task", TASKS)
def test_it_says_what_the_run_said(task: TaskName, tmp_path: Path) -> None:
    run = tuned_run(tmp_path, task)
    for method in ("frozen", "bitfit"):
        given = model(task)
        before = {name: value.clone() for name, value in given.model.state_dict().items()}
        tuned = Tuned.load(run, given, method=method)
        records = read_own(tmp_path / "mine.jsonl", task).test
        expected = json.loads((run / "fits" / method / "seed-0" / "test.json").read_text())["predictions"]
        said = tuned.answer([record.image for record in records], [record.prompt for record in records])
        assert dict(zip([record.id for record in records], said, strict=True)) == expected
        opened = tuned.answer(Image.open(records[0].image), ASKED[task])
        assert opened == tuned.answer(str(records[0].image), ASKED[task])
        tuned.close()
        assert all((before[name] == value).all() for name, value in given.model.state_dict().items())


def test_the_best_on_validation_is_taken_and_others_by_name(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, "vqa", seeds=2)
    cells = json.loads((run / "results.json").read_text())["cells"]
    best = max(cells, key=lambda cell: cell["validation"])
    tuned = Tuned.load(run, model("vqa"))
    assert (tuned.method, tuned.seed) == (best["method"], best["seed"])
    assert Tuned.load(run, model("vqa"), "bitfit", 1).seed == 1
    with pytest.raises(InputError, match=r"method is 'lora' and seed None.*use frozen at seed 0, bitfit at seed 0"):
        Tuned.load(run, model("vqa"), "lora")
    with pytest.raises(InputError, match=r"model is missing: .*--model"):
        Tuned.load(run)
    with pytest.raises(InputError, match="has other weights: give the model that was tuned"):
        Tuned.load(run, model("vqa", seed=5))
    with pytest.raises(FileError, match="holds no results of a tuned model"):
        Tuned.load(tmp_path)
    for pictures, prompts, sentence in (
        (tmp_path / "1.png", "", "nothing is asked, but this model was tuned for vqa: give a question"),
        ([tmp_path / "1.png"] * 2, ["what ?"], "prompts has 1 texts for 2 pictures"),
        ([tmp_path / "1.png"], [3], "prompts holds a int: give texts"),
        ([3], "what ?", r"pictures\[0\] is a int: give a path or a PIL picture"),
    ):
        with pytest.raises(InputError, match=sentence):
            tuned.answer(pictures, prompts)  # type: ignore[arg-type]
    with pytest.raises(FileError, match=r"none\.png"):
        tuned.answer(tmp_path / "none.png", "what ?")
    (run / TUNED).write_text('{"format": 1, "model": 3, "answers": {}}')
    with pytest.raises(FileError, match="run vlmadapt tune again"):
        Tuned.load(run)


def answered(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["answer", *map(str, arguments), "--device", "cpu"])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("task", TASKS)
def test_the_command(task: TaskName, tmp_path: Path, monkeypatch: Any) -> None:
    save_small(model(task).model, tokenizer(), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    run = tuned_run(tmp_path, task, "blip:model", methods=("bitfit",))
    monkeypatch.chdir("/")
    flag = {"caption": [], "vqa": ["--question", ASKED["vqa"]], "entailment": ["--hypothesis", ASKED["entailment"]]}[
        task
    ]
    code, out, _ = answered(run, tmp_path / "1.png", *flag)
    assert code == 0 and out.startswith(f"{tmp_path / '1.png'}: ")
    code, out, err = answered(run, tmp_path / "1.png", tmp_path / "none.png", "--json", *flag)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and "none.png" in err and lines[1]["error"] and lines[0]["task"] == task and lines[0]["answer"]
    assert lines[0].get("prompt", "") == ASKED[task]
    code, _, err = answered(run, tmp_path / "1.png", *([] if flag else ["--question", "what ?"]))
    assert code == 2 and f"this model was tuned for {task}" in " ".join(err.split())
    result = CliRunner().invoke(app, ["predict", str(run), str(tmp_path / "1.png")])
    assert result.exit_code == 2 and "use vlmadapt answer" in " ".join(result.stderr.split())


def test_data_check_reads_such_a_file(tmp_path: Path) -> None:
    path = own_file(tmp_path, "vqa")
    result = CliRunner().invoke(app, ["data", "check", str(path)])
    assert result.exit_code == 0 and "24 records for vqa" in result.stdout and "nothing wrong" in result.stdout
    path.write_text(path.read_text() + '\n{"image": "none.png", "question": "?", "answers": ["x"]}\n')
    result = CliRunner().invoke(app, ["data", "check", str(path)])
    assert result.exit_code == 1 and "line 25" in " ".join(result.stdout.split())
