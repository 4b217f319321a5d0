from __future__ import annotations

import unicodedata
from pathlib import Path

from vlmadapt.provenance.identity import difference, file_name, file_name_of_0_1_0


def test_the_first_difference_is_named() -> None:
    then = {"config": {"epochs": 3, "lr": 0.1}, "views": 1}
    assert difference(then, {"views": 1, "config": {"lr": 0.1, "epochs": 3}}) is None
    assert str(difference(then, {"config": {"epochs": 2, "lr": 0.1}, "views": 1})) == "config.epochs was 3, is 2"
    assert str(difference(then, {**then, "seed": 0})) == "seed was None, is 0"
    assert str(difference({**then, "seed": 0}, then)) == "seed was 0, is None"
    long = str(difference({"names": ["name"] * 1000}, {"names": []}))
    assert len(long) < 120


def test_labels_never_share_a_name(tmp_path: Path) -> None:
    labels = [
        "taskres",
        "taskres:scale=1e-1:search_scale=false",
        "taskres:scale=1e+1:search_scale=false",
        "taskres-scale=1e-1-search_scale=false",
        "hegraph, no graph",
        "hegraph - no graph",
        "..",
        "",
        "a" * 300,
        "a" * 301,
        "a" * 80,
        "Lora",
        "lora",
        "LORA",
        "lora.",
        ".lora",
        "caf\u00e9",
        "cafe\u0301",
        "\u212a",  # the kelvin sign, which some file systems take for a K
        "k",
        "\U0001d5ba" * 80,
        "\U0001d5ba" * 81,
        "\u732b" * 300,
        "\udce9",
        "lora\0",
        "lora/../x",
        *(file_name(label) for label in ("taskres:scale=1e-1:search_scale=false", "..")),
    ]
    names = [file_name(label) for label in labels]
    # No case, and one form of every letter, as on Windows and macOS.
    assert len({unicodedata.normalize("NFKD", name).casefold() for name in names}) == len(labels)
    assert all(len(name.encode()) < 100 and not name.startswith(".") and not name.endswith(".") for name in names)
    for name in names:
        (tmp_path / name).mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_plain_label_is_its_own_name() -> None:
    for label in ("zero-shot", "linear-probe", "tip-adapter-f", "a_b.c=2"):
        assert file_name(label) == label == file_name_of_0_1_0(label)
