"""``benchmarks.borrowed`` without a GPU: what a kill leaves, what is refused, and every phase's dry run."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.borrowed import __main__ as borrowed
from benchmarks.borrowed import counters, library, matrix, optests, page, races, sanitizer, smoke, timer
from benchmarks.borrowed.child import ROOT, SKIPPED, Child, Group, environment
from benchmarks.borrowed.phases import PHASES
from benchmarks.borrowed.predictions import PREDICTIONS, table
from benchmarks.borrowed.record import Log
from tests.cuda_on_cpu.harness.process import state_and_seconds

BUDGET = sum(phase.seconds for phase in PHASES)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path)
    log.write("run", dry=True, budget=1, only="")
    return log


@pytest.fixture
def default_device() -> Iterator[None]:
    yield
    torch.set_default_device(None)


def child_of(log: Log, phase: str, *more: str) -> Child:
    return Child(log, phase, dry=True, seconds=200, more=list(more))


def checks(log: Log) -> list[dict[str, Any]]:
    return log.rows("check")


# What is written


def test_a_torn_line_costs_no_other(log: Log) -> None:
    log.write("note", phase="x", name="first", value=1, unit="")
    with log.path.open("a") as stream:
        stream.write('{"kind": "note", "na')
    log.write("note", phase="x", name="second", value=2, unit="")
    assert [row["name"] for row in log.rows("note")] == ["first", "second"]


def test_a_killed_writer_leaves_whole_lines(log: Log) -> None:
    code = (
        "import itertools, sys; from pathlib import Path; from benchmarks.borrowed.record import Log\n"
        "for n in itertools.count(): Log(Path(sys.argv[1])).write('note', n=n, text='x' * 3000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(log.folder)], cwd=ROOT, env=environment())
    while len(log.rows("note")) < 3:
        time.sleep(0.02)
    process.kill()
    process.wait()
    numbers = [row["n"] for row in log.rows("note")]
    assert numbers == list(range(len(numbers))) and len(log.path.read_text().splitlines()) == len(numbers) + 1


def test_a_time_beyond_a_ceiling_is_refused(log: Log) -> None:
    ceilings = {"copy": 4.0, "fp32": 50.0, "l2": 6.0}
    times = timer.Times(1.0, 0.9, 1.1, "graph")
    row = timer.timed_row(times, {"copy": 2e9, "fp32": 40e9}, ceilings)
    assert row["roof"] == "fp32" and row["share"] == pytest.approx(0.8) and "refused" not in row
    row = timer.timed_row(times, {"copy": 4.4e9, "fp32": 40e9}, ceilings)
    assert row["refused"] == "110 % of the measured ceiling copy"
    # A multiprocessor may keep what it would read from the L2 cache.
    assert "refused" not in timer.timed_row(times, {"l2": 9e9}, ceilings)
    assert timer.timed_row(times, {"bf16": 1.0}, ceilings)["share"] is None  # not measured
    known = {"phase": "x", "group": "g", "shape": "s", "dtype": "fp32", "l2": "cold", "error": None}
    log.write("time", **known, rival="ours", **timer.timed_row(times, {"copy": 8e9}, ceilings))
    log.write("left out", **known, rival="other", reason="none")
    text = page.text(log)
    assert "| refused: 200 % of the measured ceiling copy |" in text and "| other |  | | | | | none |" in text


def test_predictions_are_judged_by_their_bands(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write("run", dry=False, budget=1, only="")
    log.write("ceiling", name="copy", value=4.3)
    log.write("ceiling", name="bf16", value=500.0)
    lines = {line.split(" | ")[0]: line for line in page.text(log).split("## Predictions")[1].splitlines()}
    assert "4.3 TB/s | as predicted" in lines["| copy, bytes read and written"]
    assert "500 TFLOP/s | **refuted**" in lines["| product 8192^3, bf16"]
    assert "not measured" in lines["| product 8192^3, tf32"]


def test_every_prediction_is_of_something_that_is_measured() -> None:
    """A race's group, shape, type and rival, by the names that the races give."""
    shapes = {name for module in (races.races_cache, races.races_p_laplacian) for name in module.SHAPES}
    shapes |= {f"C={classes}" for classes in (100, 1000, 4000, 21000)}
    shapes |= {"1000x16000, 20 betas, 10 alphas", "1000x16000, 200 betas, 20 alphas"}
    assert {one.key["shape"] for one in PREDICTIONS if one.kind == "time"} <= shapes
    assert all(one.low < one.high or one.unit == "kernels" for one in PREDICTIONS)  # a count is exact


def test_the_table_of_predictions_is_in_the_docs() -> None:
    assert "\n".join(table()) in (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")


# The phases


@pytest.mark.parametrize("kind", races.KINDS)
def test_races(log: Log, kind: str, default_device: None) -> None:
    torch.manual_seed(0)
    for name in ("bf16", "tf32", "fp32", "copy", "l2"):
        log.write("ceiling", name=name, value=1e6)
    races.run(child_of(log, "races", kind))
    rows = log.rows("time")
    assert {"ours"} < {row["rival"] for row in rows} and all(row["ms"] > 0 for row in rows)
    limit = {"fp32": 1e-4, "tf32": 1e-4, "bf16": 3e-2}
    assert all(row["error"] is None or row["error"] < limit[row["dtype"]] for row in rows)
    assert {row["rival"] for row in log.rows("left out")} <= {"PyG", "triton"}
    assert "| ours | cold |" in page.text(log)


def test_probe_and_host(log: Log, default_device: None) -> None:
    for name in ("probe", "host"):
        importlib.import_module(f"benchmarks.borrowed.{name}").run(child_of(log, name))
    assert set(log.ceilings()) == {"copy", "l2", "bf16", "tf32", "fp32"}
    notes = {row["name"] for row in log.rows("note")}
    assert any("launches" in name for name in notes) and any("gather" in name for name in notes)


@pytest.mark.parametrize(
    "combination", [("cache_retrieval_grid", "fp32", "forward"), ("p_laplacian", "bf16", "backward")]
)
def test_smoke(log: Log, combination: tuple[str, str, str], default_device: None) -> None:
    smoke.run(child_of(log, "smoke", *combination))
    assert checks(log) and all(row["good"] for row in checks(log))


def test_smoke_names_what_a_fault_ended(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "combinations", lambda dry: [("no such operator", "fp32", "forward")])
    smoke.run(child_of(log, "smoke"))
    [row] = checks(log)
    assert not row["good"] and row["name"] == "no such operator fp32 forward" and "KeyError" in row["detail"]


def test_smoke_covers_every_operator_type_and_direction() -> None:
    found = smoke.combinations(dry=False)
    assert ("hetero_aggregate", "fp64", "backward") in found and ("PreparedCache", "fp32", "backward") not in found
    assert {operator for operator, _, _ in found} >= {"cache_retrieval", "p_laplacian", "p_laplacian_attention"}


def test_library(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    library.run(child_of(log, "library"))
    assert [row["good"] for row in checks(log)] == [True]
    answers = iter([{"error": "undefined symbol"}, {"cpu_library": "x.so"}])
    monkeypatch.setattr(library, "loaded", lambda: next(answers))
    monkeypatch.setattr(library, "BUILD", [sys.executable, "-c", ""])
    library.run(child_of(log, "library"))
    assert [row["name"] for row in checks(log)[1:]] == ["build in place", "the operators load"]


@pytest.fixture
def marks(request: pytest.FixtureRequest) -> None:
    """Those of tests/cuda_on_cpu, whose conftest is not read where only this file is run."""
    for name in ("cuda_full", "cuda_quick"):
        request.config.addinivalue_line("markers", f"{name}: see tests/cuda_on_cpu")


@pytest.mark.timeout(1800)
def test_matrix(log: Log, marks: None) -> None:
    try:
        matrix.run(child_of(log, "matrix"))
    except SystemExit as left:
        assert left.code == SKIPPED
        pytest.skip(log.rows("skip")[-1]["reason"])
    assert len(checks(log)) == matrix.DRY_CASES and all(row["good"] for row in checks(log))


SANITIZER = """#!/bin/sh
[ "$1" = --version ] && exit 0
tool=$2 log=$4; shift 6
"$@"
echo "========= ERROR SUMMARY: $([ $tool = racecheck ] && echo 2 || echo 0) errors" > "$log"
"""


@pytest.mark.timeout(1800)
def test_sanitizer(log: Log, tmp_path: Path, marks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    try:
        sanitizer.run(child_of(log, "sanitizer"))
    except SystemExit:
        pytest.skip(log.rows("skip")[-1]["reason"])
    totals = {row["name"].split(",")[0]: row["good"] for row in checks(log) if " of " in row["name"]}
    assert totals == {"memcheck": True, "racecheck": False, "initcheck": True}
    assert all(row["good"] for row in checks(log) if " of " not in row["name"])


def test_a_sanitizer_without_a_summary_has_not_ended() -> None:
    assert sanitizer.summary("=========")[0] is None
    assert sanitizer.summary("========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)")[0] == 3


STRUCK = """
import os, pytest
@pytest.mark.parametrize("x", [1, 2])
def test_struck(x):
    assert x == 1 or "CUDA_LAUNCH_BLOCKING" in os.environ
def test_skipped():
    pytest.skip("none")
@pytest.fixture
def broken():
    raise RuntimeError("before the test")
def test_never(broken):
    pass
"""


def test_failed_tests_run_again_by_themselves(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    (ROOT / "build").mkdir(exist_ok=True)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of the run that this test is part of
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:  # below the conftest that knows --device
        (Path(folder) / "test_some.py").write_text(STRUCK)
        monkeypatch.setattr(optests, "DRY", [str(Path(folder).relative_to(ROOT) / "test_some.py")])
        optests.run(child_of(log, "tests"))
    outcomes = {row["name"].partition("::")[2]: row["good"] for row in checks(log)}
    first = {"test_struck[1]": True, "test_struck[2]": False, "test_never": False}
    assert outcomes == first | {"test_struck[2] (alone)": True, "test_never (alone)": False}
    assert any("before the test" in row["detail"] for row in checks(log))


def test_operator_tests_run_without_plugins(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optests.importlib.util, "find_spec", lambda name: None)
    given = optests.command(child_of(log, "tests"), ["tests/ops"], 6)
    assert "--numprocesses" not in given and "--timeout" not in given and "addopts=-q" in given


NCU = """#!/bin/sh
case "$*" in *tensor*) echo "unknown metric" >&2; exit 1;; esac
echo '"ID","Metric Name","Metric Unit","Metric Value"'
echo '"0","gpu__time_duration.sum","us","12.5"'
"""


def test_counters(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default_device: None) -> None:
    for name in counters.KERNELS:
        counters.run(child_of(log, "counters", name))
    tool = tmp_path / "ncu"
    tool.write_text(NCU)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    counters.run(child_of(log, "counters"))
    assert [row["value"] for row in log.rows("note")] == ["12.5 us"] * len(counters.KERNELS)


# All together


def test_budgets_of_the_first_phases_fit() -> None:
    """What must be known before times are worth anything comes first, within half of the time."""
    assert sum(phase.seconds for phase in PHASES if phase.number <= 3) <= 270 and BUDGET < 800


def test_a_process_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as output:
        script = f"sleep 60 & echo $! > {tmp_path / 'new'}; mv {tmp_path / 'new'} {tmp_path / 'started'}; wait"
        group = Group(["sh", "-c", script], output, inner=False)
        while not (tmp_path / "started").exists():
            time.sleep(0.02)
        assert group.wait(0.1) is None
    child = int((tmp_path / "started").read_text())
    with contextlib.suppress(FileNotFoundError):  # one that nobody waits for may stay as a zombie
        while state_and_seconds(child)[0] != "Z":
            time.sleep(0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: everything would run")
def test_without_a_gpu_nothing_is_written(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["borrowed", "--out", str(tmp_path / "out")])
    assert borrowed.main() == 0
    assert "finds no CUDA device" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_unknown_phases_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [phase.name for phase in borrowed.chosen("0,races-grid")] == ["probe", "races-grid"]
    with pytest.raises(SystemExit, match=r"--only nothing: choose among 0 probe, 1 library"):
        borrowed.chosen("nothing,probe")


def torch_alone(folder: Path) -> Path:
    """A folder with torch and what torch itself asks for, and nothing else."""
    folder.mkdir()
    wanted, seen = ["torch"], set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name in seen:
            continue
        seen.add(name)
        wanted += [re.split(r"[ ;<>=!~\[(]", text)[0] for text in found.requires or [] if "extra ==" not in text]
        for top in {file.parts[0] for file in found.files or [] if not file.parts[0].startswith((".", "_"))}:
            target = folder / top
            if not target.exists():
                target.symlink_to(Path(str(found.locate_file(top))))
    return folder


@pytest.mark.timeout(2400)
def test_a_dry_run_from_a_python_with_torch_alone(tmp_path: Path) -> None:
    """``-S``: no site-packages. The other phases are run above, in this process, for torch takes long to import."""
    bare = torch_alone(tmp_path / "bare")
    assert not (bare / "numpy").exists() and not (bare / "pytest").exists()
    out = tmp_path / "out"
    command = [sys.executable, "-S", "-m", "benchmarks.borrowed", "--out", str(out), "--dry-run", "--budget", "2000"]
    done = subprocess.run([*command, "--only", "probe,smoke,matrix,races-grid,tests,counters"], cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(bare)}, capture_output=True, text=True)  # fmt: skip
    states = {row["phase"]: (row["state"], row["reason"]) for row in Log(out).rows("phase")}
    missing = ("skipped", "numpy and pytest not installed")
    assert states["matrix"] == missing, done.stdout + done.stderr
    assert states["tests"] == ("skipped", "pytest and numpy not installed")
    assert states["counters"][0] == "skipped"
    words = (out / "log.txt").read_text()
    assert {states[name][0] for name in ("probe", "smoke", "races-grid")} == {"done"}, words
    assert "ModuleNotFoundError" not in words
    assert len(list(out.iterdir())) <= 8 and (out / "gpu.md").read_text() in done.stdout
    assert all(row["good"] for row in Log(out).rows("check")), words


def test_the_table_is_printed_when_it_is_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.borrowed", "--out", str(tmp_path), "--dry-run", "--only", "smoke"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "log.txt").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 143 and "## Predictions" in printed and "stopped by SIGTERM" in printed
    assert [row["state"] for row in Log(tmp_path).rows("phase")] == ["stopped"]
