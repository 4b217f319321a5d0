"""Settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import ours, peers
from ..case import OURS, Verdict, case
from ..judge import judged, of_call, refused
from ..pictures import class_folders

NAME = "Settings"

words = case(
    NAME,
    "a setting that is on or off, given as `no`, `off` or `n`",
    "off, as `false` is, or refused by name",
    "settings that are on or off",
    "test_config.py::test_a_switch_is_read_or_refused",
)


@words.by(OURS)
def _words(place: Path) -> list[Verdict]:
    data = class_folders(place / "pets")
    fields = [
        ("taskres", "search_scale", "no"),
        ("tip-adapter-f", "leave_one_out", "off"),
        ("clip-adapter", "search_ratio", "n"),
        ("clip-adapter", "amp", "off"),
    ]
    found = []
    for number, (adapter, field, word) in enumerate(fields):
        saved: list[Any] = []
        for value in (word, "false", "true"):
            out = place / f"{number}-{value}"
            given = ("--adapter", adapter, "--shots", "2", "--set", "epochs=1", "--set", f"{field}={value}")
            said = ours.command(place, "fit", data, *given, "--out", out)
            files = out / "run.json", out / "adapter.safetensors"
            saved.append((ours.read(files[0])["config"][field], files[1].read_bytes()) if said.code == 0 else said)
        asked, off, on = saved
        if not isinstance(asked, tuple):
            found.append(refused(asked, (field,), f"{field}={word}"))
        else:
            found.append(
                judged(asked == off and asked[0] is False and on[0] is True, f"read as {asked[0]}", f"{field}={word}")
            )
    return found


@words.by("CLIP_benchmark")
def _words_clip(place: Path) -> list[Verdict]:
    from clip_benchmark.cli import get_parser_args

    found = []
    for word in ("no", "off", "n"):
        sys.argv = ["clip_benchmark", "eval", "--normalize", word]
        found.append(
            of_call(
                lambda: get_parser_args()[1].normalize,
                ("normalize",),
                lambda seen: (seen is False, f"read as {seen}"),
                f"--normalize {word}",
            )
        )
    return found


@words.by("scikit-learn")
def _words_sklearn(place: Path) -> list[Verdict]:
    from sklearn.linear_model import LogisticRegression

    data, labels = peers.problem().train
    return [
        of_call(
            lambda: LogisticRegression(fit_intercept=word).fit(data.numpy(), labels.numpy()).intercept_,
            ("fit_intercept",),
            lambda seen: (not np.any(seen), "an intercept"),
            f"fit_intercept={word!r}",
        )
        for word in ("no", "off", "n")
    ]


@words.by("peft")
def _words_peft(place: Path) -> list[Verdict]:
    from tests.generative.tiny import tiny_blip

    def scaling(word: Any) -> float:
        model = peers.lora(tiny_blip("BlipForConditionalGeneration"), lora_alpha=8, use_rslora=word)
        return next(
            module.scaling["default"] for module in model.modules() if hasattr(module, "scaling") and module.scaling
        )

    off = scaling(False)
    return [
        of_call(
            lambda: scaling(word),
            ("use_rslora",),
            lambda seen: (seen == off, f"scaling {seen:g}, off is {off:g}"),
            f"use_rslora={word!r}",
        )
        for word in ("no", "off", "n")
    ]


@words.by("Tip-Adapter")
def _words_tip(place: Path) -> list[Verdict]:
    """Its settings are a YAML file."""
    import yaml

    modules, found = peers.tip_adapter(), []
    for word in ("no", "off", "n"):
        settings = peers.tip_settings(place / word) | yaml.load(f"load_cache: {word}", Loader=yaml.Loader)
        found.append(
            of_call(
                lambda: peers.tip_fit(modules, settings, peers.problem()),
                ("load_cache",),
                lambda keys: (keys.shape == (32, 12), "a new cache"),
                f"load_cache: {word}",
            )
        )
    return found


@words.by("ImageFolder")
def _words_torchvision(place: Path) -> list[Verdict]:
    """A class folder without pictures, which is refused by default."""
    from torchvision.datasets import ImageFolder

    root = class_folders(place / "pets")
    (root / "pig").mkdir()
    return [
        of_call(
            lambda: ImageFolder(str(root), allow_empty=word).classes,
            ("pig", "allow_empty"),
            lambda seen: (False, f"accepted, classes {seen}"),
            f"allow_empty={word!r}",
        )
        for word in ("no", "off", "n")
    ]


ranges = case(
    NAME,
    "a searched range with half a step, a word, a truth value, infinity, or 600 orders of magnitude",
    "refused by name, before any fit",
    "searched ranges",
    "test_config.py::test_a_range_is_read_or_refused",
    "test_config.py::test_a_range_as_the_command_line_gives_it",
)
RANGES = ("[1,8,2.5]", '["a",1,2]', "[1,8,true]", "[1,Infinity,3]", "[1e-300,1e300,5]")


@ranges.by(OURS)
def _ranges(place: Path) -> list[Verdict]:
    data = class_folders(place / "pets")
    return [
        refused(
            ours.command(
                place,
                "fit",
                data,
                "--adapter",
                "tip-adapter",
                "--shots",
                "2",
                "--set",
                f"search_beta={text}",
                "--out",
                f"run{number}",
            ),
            ("search_beta",),
            text,
        )
        for number, text in enumerate(RANGES)
    ]


@ranges.by("scikit-learn")
def _ranges_sklearn(place: Path) -> list[Verdict]:
    from sklearn.linear_model import LogisticRegressionCV

    data, labels = peers.problem(shots=8).train
    given: dict[str, Any] = {
        "2.5": 2.5,
        "['a', 1, 2]": ["a", 1, 2],
        "True": True,
        "[1, inf]": [1.0, float("inf")],
        "[1e-300, 1e300]": [1e-300, 1e300],
    }
    fit = lambda value: LogisticRegressionCV(Cs=value, l1_ratios=(0,), use_legacy_attributes=False).fit(
        data.numpy(), labels.numpy()
    )
    return [
        of_call(lambda: fit(value), ("Cs", " C "), lambda _: (False, "accepted"), f"Cs={text}")
        for text, value in given.items()
    ]


@ranges.by("Tip-Adapter")
def _ranges_tip(place: Path) -> list[Verdict]:
    modules = peers.tip_adapter()
    given: list[dict[str, Any]] = [
        {"search_step": [2.5, 2]},
        {"search_scale": ["a", 3]},
        {"search_step": [True, 2]},
        {"search_scale": [float("inf"), 3]},
        {"search_scale": [1e300, 3]},
    ]
    return [
        of_call(
            lambda: peers.tip_fit(modules, peers.tip_settings(place / "caches", **more), peers.problem()),
            tuple(more),
            lambda _: (False, "accepted"),
            str(more),
        )
        for more in given
    ]
