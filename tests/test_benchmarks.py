"""The benchmarks' own arithmetic: ratios, targets, losses, the guard. No speed is asserted here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check, page
from benchmarks.results import load, merged
from benchmarks.targets import outcomes


def entry(group: str, rival: str, seconds: list[float], **extra: Any) -> dict[str, Any]:
    return {"group": group, "params": {"rival": rival}, "extra_info": extra, "stats": {"data": seconds}}


FORWARD = "cache_retrieval | forward | Q1"


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    machine = {"isa": "avx2", "threads": 2, "load": 0.1, "device": "cpu", "versions": {"torch": "2"}}
    scaling = "cache_retrieval | scaling"
    data = {
        "datetime": "2026-01-02T03:04:05",
        "machine_info": {"vlmadapt": machine, "cpu": {"brand_raw": "a processor"}},
        "benchmarks": [
            entry(FORWARD, "ours", [2.0, 2.0, 2.0], error=1e-7),
            entry(FORWARD, "eager", [3.0, 4.0, 5.0], error=2e-7),
            entry(FORWARD, "compiled", [1.0, 1.0, 1.0]),
            entry(FORWARD, "released", [0.5], times=40),
            entry("cache_retrieval | memory, forward | Q1", "ours", [9.0], extra_mib=3.4),
            *[entry(scaling, "ours", [n / 1e3], x=n, x_name="keys", slope=1) for n in (10, 100)],
        ],
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))
    return path


def test_ratios_are_of_medians_and_above_one_where_the_rival_is_slower(measured: Path) -> None:
    [race] = load(measured).races()
    assert race.ratio("eager") == (2.0, 1.75, 2.25)
    assert race.ratio("released")[0] == 10  # a part of its work was timed: 40 times that


def test_a_target_is_judged_by_its_fastest_rival(measured: Path) -> None:
    [outcome] = [o for o in outcomes(load(measured)) if "never slower" in o.target.text]
    assert (outcome.rival, outcome.ratio, outcome.met) == ("compiled", 0.5, False)


def test_the_page_lists_losses_targets_memory_and_figures(measured: Path, tmp_path: Path) -> None:
    text = page.page(load(measured), tmp_path)
    losses = text.split("## Where we lose")[1].split("## cache_retrieval")[0]
    assert "| compiled | 0.50" in losses and "eager" not in losses
    assert "**missed**: 1 was meant" in text and "| ours | 3.4 |" in text and "a processor" in text
    for picture in ("benchmarks_cache_retrieval.png", "benchmarks_cache_retrieval_scaling.png"):
        assert picture in text and (tmp_path / picture).stat().st_size > 1000


def test_a_run_made_in_parts_keeps_the_first_of_each_group(measured: Path, tmp_path: Path) -> None:
    data = json.loads(measured.read_text())
    data["benchmarks"] = [entry(FORWARD, "ours", [9.0]), entry("other | forward | x", "ours", [1.0])]
    (tmp_path / "more.json").write_text(json.dumps(data))
    run = merged([load(measured), load(tmp_path / "more.json")])
    groups = {group.name: group for group in run.groups}
    assert groups[FORWARD].entries["ours"].median == 2.0 and "other | forward | x" in groups
    assert "in 2 parts" in page.page(run, tmp_path, parts=2) and "that one run" in page.page(run, tmp_path)


def test_the_guard_names_what_fell_behind(measured: Path) -> None:
    now = check.ratios(load(measured))
    assert now[f"{FORWARD} | eager"] == 2.0
    before = {f"{FORWARD} | eager": 3.0, f"{FORWARD} | compiled": 0.6, "not measured": 9.0}
    assert check.slower(now, before, tolerance=0.4) == []
    assert check.slower(now, before, tolerance=0.3) == [f"{FORWARD} | eager: 2.00, committed 3.00"]
