"""One bad item, and what is interrupted."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Any

import torch

from .. import ours, peers
from ..case import CRASH, OURS, SILENT, Verdict, case
from ..child import as_any_user, killed_beyond
from ..judge import of_call, of_command
from ..pictures import CLASSES, class_folders, truncate

NAME = "One bad item, and interruptions"

truncated = case(
    NAME,
    "twelve good pictures and one that is cut off",
    "twelve results, and the bad one is named",
    "reading of pictures",
    "cli/test_predict.py::test_one_bad_picture_of_thirteen_costs_itself",
    "cli/test_predict.py::test_a_folder_with_a_bad_picture_is_predicted_too",
)


def with_a_bad_one(root: Path) -> Path:
    class_folders(root, range(6), ("cat", "dog"))
    bad = class_folders(root, [6], ("cat",)) / "cat" / "006.png"
    truncate(bad)
    return root


@truncated.by(OURS)
def _truncated(place: Path) -> list[Verdict]:
    run = ours.fit(place, class_folders(place / "pets"))
    root, found = with_a_bad_one(place / "new"), []
    for what, more in (("text", ()), ("--json", ("--json",))):
        said = ours.command(place, "predict", run, root, *more)
        results = (
            said.out.count('"picture"') - said.out.count('"error"')
            if more
            else sum("%" in line for line in said.out.splitlines())
        )
        right = said.code == 1 and results == 12 and "006.png" in said.err and not said.traceback
        found.append(
            Verdict(
                "right" if right else CRASH, f"{results} results, exit code {said.code}", said.code, said.last, what
            )
        )
    return found


@truncated.by("ImageFolder")
def _truncated_torchvision(place: Path) -> Verdict:
    root = with_a_bad_one(place / "new")
    return of_call(
        lambda: peers.read_all(root), ("006.png",), lambda seen: (False, f"{seen[1]} pictures, nothing said")
    )


@truncated.by("CLIP_benchmark")
def _truncated_clip(place: Path) -> Verdict:
    root = with_a_bad_one(place / "new")
    return of_call(lambda: peers.convert(root, place / "w"), ("006.png",), lambda _: (False, "converted, nothing said"))


@truncated.by("Tip-Adapter")
def _truncated_tip(place: Path) -> Verdict:
    root = with_a_bad_one(place / "new")
    peers.tip_adapter()
    from datasets.utils import read_image

    return of_call(
        lambda: [read_image(str(path)) for path in sorted(root.rglob("*.png"))],
        (),
        lambda seen: (False, f"{len(seen)} pictures"),
    )


locked = case(
    NAME,
    "a class folder that may be listed but not entered (mode r--)",
    "refused, the folder or its file named",
    "reading of folders",
    "data/test_layouts.py::test_a_class_folder_that_may_not_be_read_is_named",
)


def with_a_locked_one(root: Path) -> Path:
    as_any_user()
    class_folders(root)
    (root / "dog").chmod(0o444)
    return root


@locked.by(OURS)
def _locked(place: Path) -> Verdict:
    data = with_a_locked_one(place / "pets")
    said = ours.command(place, "fit", data, *ours.FAST, "--out", "run")
    return of_command(said, ("dog",), lambda: (False, "fitted without the class"))


@locked.by("ImageFolder")
def _locked_torchvision(place: Path) -> Verdict:
    data = with_a_locked_one(place / "pets")
    return of_call(lambda: peers.read_all(data), ("dog",), lambda seen: (False, f"read as {seen}"))


@locked.by("CLIP_benchmark")
def _locked_clip(place: Path) -> Verdict:
    data = with_a_locked_one(place / "pets")
    return of_call(lambda: peers.convert(data, place / "w"), ("dog",), lambda _: (False, "converted without the class"))


killed = case(
    NAME,
    "killed in the middle of writing a file, then run again in the way that skips what is done "
    "(`--resume`, `--skip_existing`, `load_cache`)",
    "the result of a run that was not killed, no stray file",
    "way to skip what is done",
    "cli/test_folders.py::test_a_fit_that_was_killed_at_its_first_file_leaves_the_folder_usable",
    "provenance/test_place.py::test_what_a_killed_writer_leaves_is_removed_by_the_next_run",
    "torture/test_torture.py::test_whatever_happens_to_a_command_it_goes_on_to_the_same_end",
)


@killed.by(OURS)
def _killed(place: Path) -> list[Verdict]:
    data, found = class_folders(place / "pets"), []
    whole = ours.fit(place, data, "whole")
    for size in (10, 200, 1000, 4000):
        out = place / f"killed-at-{size}"
        arguments = ("fit", str(data), *ours.FAST, "--out", str(out))
        code = killed_beyond(size, lambda: ours.call_main(arguments))
        said = ours.command(place, *arguments, "--resume")

        def check(out: Path = out) -> tuple[bool, str]:
            same = (out / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()
            stray = ours.tree(out) - ours.tree(whole)
            return same and not stray, f"the same bytes: {same}, stray files: {sorted(stray)}"

        verdict = of_command(said, (), check, f"at {size} bytes")
        found.append(verdict if code == -signal.SIGXFSZ else Verdict(CRASH, f"not killed: {code}", of=verdict.of))
    return found


@killed.by("CLIP_benchmark")
def _killed_clip(place: Path) -> Verdict:
    root = peers.convert(class_folders(place / "pets"), place / "converted")
    peers.tiny_model(place / "m")
    out = place / "r.json"
    code = killed_beyond(100, lambda: peers.clip_benchmark(root, place / "m", "--output", out))

    def again() -> dict[str, float]:
        peers.clip_benchmark(root, place / "m", "--output", out, "--skip_existing")
        text = out.read_text()
        return ours.read(out)["metrics"] if text.endswith("}") else {}

    return of_call(
        again,
        (str(out),),
        lambda metrics: ("acc1" in metrics, f"ended with {code}; then {out.stat().st_size} bytes are kept as finished"),
    )


@killed.by("Tip-Adapter")
def _killed_tip(place: Path) -> Verdict:
    modules, data = peers.tip_adapter(), peers.problem()
    killed_beyond(1000, lambda: peers.tip_fit(modules, peers.tip_settings(place / "caches"), data) is None)
    again = peers.tip_settings(place / "caches", load_cache=True)

    def check(keys: torch.Tensor) -> tuple[bool, str]:
        return torch.allclose(keys.T, data.train[0], atol=1e-5), "the cache is that of the data"

    return of_call(lambda: peers.tip_fit(modules, again, data), ("keys_4shots.pt",), check)


signals = case(
    NAME,
    "SIGTERM or SIGHUP during a fit that goes on for epochs",
    "the exit code of the signal, the command that goes on where it stopped, and that command "
    "gives the result of an unbroken fit",
    "fits that can go on",
    "cli/test_interruption.py::test_an_interrupted_fit_goes_on_by_its_hint",
)


@signals.by(OURS)
def _signals(place: Path) -> list[Verdict]:
    data, found = class_folders(place / "pets"), []
    fit = (
        "fit",
        data,
        "--adapter",
        "tip-adapter-f",
        "--shots",
        "2",
        "--set",
        "epochs=4",
        "--set",
        "search_beta=[1,8,2]",
    )
    ours.command(place, *fit, "--out", place / "whole")
    for name, code in (("SIGTERM", 143), ("SIGHUP", 129)):
        said = ours.command(place, *fit, "--out", place / name, before=lambda: strike_at_an_epoch(name))
        hint = said.last.partition("vlmadapt ")[2]
        if said.code != code or said.traceback or "--resume" not in hint:
            found.append(Verdict(CRASH, f"exit code {said.code}", said.code, said.last, name))
            continue
        ours.command(place, *shlex.split(hint))
        files = [(place / run / "adapter.safetensors") for run in ("whole", name)]
        same = files[1].is_file() and files[0].read_bytes() == files[1].read_bytes()
        found.append(
            Verdict(
                "right" if same else SILENT, f"exit code {code}, then the same bytes: {same}", code, said.last, name
            )
        )
    return found


def strike_at_an_epoch(name: str) -> None:
    """The signal, to this process, after the second epoch was put away."""
    import os

    from vlmadapt.training import loop
    from vlmadapt.training.checkpoint import Checkpoint

    save, saves = Checkpoint.save, []

    def struck(checkpoint: Checkpoint, path: Path) -> None:
        save(checkpoint, path)
        saves.append(path)
        if len(saves) == 2:
            os.kill(os.getpid(), getattr(signal, name))
            signal.getsignal(signal.SIGINT)

    patched: Any = Checkpoint
    loop.CHECKPOINT_SECONDS, patched.save = 0.0, struck


many_files = case(
    NAME,
    "a picture of the data is removed between the fit and the prediction that shows which pictures decided",
    "predicted, the picture still named",
    "explanations by pictures",
    "test_cli.py::test_predict_still_works_when_the_support_pictures_are_gone",
)


@many_files.by(OURS)
def _many_files(place: Path) -> Verdict:
    import shutil

    data, new = class_folders(place / "pets"), class_folders(place / "new", [40]) / "cat" / "040.png"
    run = ours.fit(place, data)
    shutil.rmtree(data)
    said = ours.command(place, "predict", run, new, "--explain")
    return of_command(
        said, (str(data),), lambda: (any(f"{name}/0" in said.out for name in CLASSES), "predicted and explained")
    )
