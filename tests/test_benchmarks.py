"""The benchmarks' own arithmetic: ratios, targets, losses, the guard. No speed is asserted here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import check, claims, machines, page
from benchmarks.ceilings import Ceilings, ImpossibleTime
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
    [outcome] = [o for o in outcomes(machines.machine_of(load(measured))) if "never slower" in o.target.text]
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
    now = check.ratios(machines.machine_of(load(measured)))
    assert now[f"{FORWARD} | eager"] == 2.0
    before = {f"{FORWARD} | eager": 3.0, f"{FORWARD} | compiled": 0.6, "not measured": 9.0}
    assert check.slower(now, before, tolerance=0.4) == []
    assert check.slower(now, before, tolerance=0.3) == [f"{FORWARD} | eager: 2.00, kept 3.00"]


def processor(name: str, eager: float, released: float = 3.0) -> machines.Machine:
    facts = {"date": "2026-01-02", "versions": {"torch": "2"}}
    ratios = {FORWARD: {"eager": (eager, eager, eager), "released": (released, released, released)}}
    return machines.Machine(name, facts, {FORWARD: 1.0}, ratios)


def test_a_processor_is_kept_as_it_was_measured_and_one_held_back_is_another(measured: Path, tmp_path: Path) -> None:
    run = load(measured)
    machine = machines.machine_of(run)
    assert machine.name == "a processor, 2 threads, avx2"
    held = machines.name_of(run.machine | {"masked": True})
    assert held == "a processor, 2 threads, held to avx2"
    assert machines.file_of(held) != machines.keep(machine, tmp_path / "kept")
    assert machines.kept(tmp_path / "kept") == [machine] and "memory" not in str(machine.ratios)


def test_the_guard_takes_this_processor_or_the_worst_of_all() -> None:
    known = [processor("one", 2.0), processor("two", 0.9)]
    assert check.before("one", known)[f"{FORWARD} | eager"] == 2.0
    assert check.before("three", known)[f"{FORWARD} | eager"] == 0.9
    assert check.before("three", []) == {}


def test_the_page_sets_processors_side_by_side(measured: Path, tmp_path: Path) -> None:
    known = [processor("one", 2.0), processor("two", 0.9)]
    text = page.page(load(measured), tmp_path, machines=known)
    assert "| cache_retrieval, forward, Q1 | eager 2.00 | **eager 0.90** |" in text
    assert "| never slower than eager or torch.compile (1) | 1 of 1, 2.00 | 0 of 1, 0.90 |" in text
    assert "Every processor" not in page.page(load(measured), tmp_path)


def test_readme_quotes_the_worst_of_all_processors() -> None:
    claim = claims.Claim("", "", r"cache_retrieval \| {} \| Q.*", ("eager", "released"))
    known = [processor("one", 2.0), processor("two", 0.9)]
    assert claim.worst("forward", known) == "0.90" and claim.worst("forward + backward", known) == "-"
    assert claim.worst("forward", known[:1]) == "2.0"
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert claims.with_table(readme, machines.kept()) == readme, "run python -m benchmarks.claims README.md"
    with pytest.raises(ValueError, match=r"lacks a marker"):
        claims.with_table("nothing", known)


def test_a_time_beyond_the_ceiling_is_refused_after_the_ceiling_was_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ceilings, rates = Ceilings(), iter([1e9, 1.2e9, 1.5e9])

    def measure(dtype: torch.dtype) -> float:
        ceilings.rates[dtype] = next(rates)
        return ceilings.rates[dtype]

    monkeypatch.setattr(ceilings, "measure", measure)
    ceilings.refuse_impossible(1e9, torch.float32, 1.0)  # at the ceiling
    ceilings.refuse_impossible(1.5e9, torch.float32, 1.0)  # believed once the ceiling is 1.5
    with pytest.raises(ImpossibleTime, match=r"1 s would be 9 GFLOP/s, torch.float32 reaches 2 here"):
        rates = iter([1.5e9, 1.6e9, 1.6e9])
        ceilings.refuse_impossible(9e9, torch.float32, 1.0)
    ceilings.refuse_impossible(0, torch.float32, 1e-9)  # no work was named
    assert ceilings.facts() == {"float32": 1.6}
