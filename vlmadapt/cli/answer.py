"""``vlmadapt answer``: what a tuned model says about new pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmadapt.cli.console import fail, note, say
from vlmadapt.cli.options import command, pick_device
from vlmadapt.cli.predict import list_pictures
from vlmadapt.generative.options import AnswerOptions

if TYPE_CHECKING:
    from vlmadapt.generative.tuned import Tuned

RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder that vlmadapt tune wrote.", show_default=False)
]


@command(AnswerOptions)
def answer(
    run: RunArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE|FOLDER...", help="Pictures to ask about.", show_default=False)
    ],
    options: AnswerOptions,
) -> None:
    """Ask a tuned model about new pictures: captions, answers, or whether a hypothesis is true.

    A picture that cannot be read is named on standard error and costs no other. Exit code 0 when every picture has an
    answer, 1 when some have, 2 when none has.
    """
    from vlmadapt.generative.tuned import Tuned

    paths = list_pictures(pictures)
    tuned = Tuned.load(run, options.model, options.method, options.seed, pick_device(options.device), options.download)
    prompts = _prompts(tuned, options)
    if not options.as_json:
        note(f"{tuned.method}, seed {tuned.seed}, tuned for {tuned.task.data.task}")
    failed = sum(not _ask(tuned, path, prompts, options.as_json) for path in paths)
    if failed:
        raise typer.Exit(1 if failed < len(paths) else 2)


def _prompts(tuned: Tuned, options: AnswerOptions) -> Sequence[str]:
    """What is asked of each picture; of a run of captions, nothing."""
    from vlmadapt.errors import InputError

    task = tuned.task.data.task
    wanted = {"vqa": "question", "entailment": "hypothesis"}.get(task)
    for name in ("question", "hypothesis"):
        given = getattr(options, name)
        if given and name != wanted:
            instead = f"ask by --{wanted}" if wanted else "leave it out"
            raise InputError(f"--{name} is given, but this model was tuned for {task}: {instead}.")
    if wanted is None:
        return [""]
    prompts = getattr(options, wanted)
    if not prompts:
        raise InputError(f"--{wanted} is missing, and this model was tuned for {task}: give {tuned.asks_for}.")
    return list(prompts)


def _ask(tuned: Tuned, path: Path, prompts: Sequence[str], as_json: bool) -> bool:
    """Print what is said about one picture; whether it could be read."""
    from vlmadapt.errors import FileError, shown

    try:
        said = tuned.answer([path] * len(prompts), prompts)
    except FileError as error:
        fail(str(error))
        if as_json:
            _print({"picture": str(path), "error": str(error)})
        return False
    for prompt, text in zip(prompts, said, strict=True):
        if as_json:
            asked = {"prompt": prompt} if prompt else {}
            _print({"picture": str(path), "task": tuned.task.data.task, **asked, "answer": text})
        else:
            say(f"{shown(path)}: {f'{shown(prompt)} ' if prompt else ''}{shown(text)}")
    return True


def _print(value: dict[str, Any]) -> None:
    import json

    print(json.dumps(value, ensure_ascii=False), flush=True)
