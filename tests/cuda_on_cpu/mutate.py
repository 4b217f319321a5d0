"""Mutation testing of our own CUDA kernels: does the suite notice when a line is broken?

    python -m tests.cuda_on_cpu.mutate [--minutes 10] [--jobs 2] [--sample 40] [--out build/mutation]

Each mutant changes one place of a .cuh file: a barrier or wait deleted, a comparison shifted by one, a predicate
dropped or forced, < and > swapped, a + made -. It is built in a copy of csrc/ and run through route A without
optimisation, then, where that notices nothing, through the race and the ASan build. Survivors are listed with their
line and with what survivors.json says of them; results go to OUT.json and OUT.md after every mutant. A later run goes
on from there: it makes unexplained survivors again, all others only with --fresh.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vlmadapt.files import write_json

from . import test_cache_retrieval, test_hetero_aggregate, test_p_laplacian
from .harness.build import CACHE, HERE, REPOSITORY, BuildError, Target, library
from .harness.case import Kernel, compare
from .harness.process import KernelFault, Schedule, Worker

SUITES = {
    "cache_retrieval": [test_cache_retrieval.FORWARD, test_cache_retrieval.BACKWARD, test_cache_retrieval.GRID],
    "hetero_aggregate": [test_hetero_aggregate.FORWARD, test_hetero_aggregate.BACKWARD],
    "p_laplacian": [test_p_laplacian.FORWARD, test_p_laplacian.BACKWARD],
}
DRIVERS = {operation: f"{operation}.cu" for operation in SUITES}

BUILDS_IN_TURN = ("unoptimised", "race", "asan")  # a later one only for what the earlier ones let pass

# Mutants that nothing can notice, and why: file name, text of the mutated line, reason.
EXPLAINED: list[dict[str, str]] = json.loads((HERE / "survivors.json").read_text())

# Rules: name, pattern, replacement. A match inside a comment is left alone.
RULES: list[tuple[str, str, str]] = [
    ("barrier deleted", r"__syncthreads\(\);", ";"),
    ("warp barrier deleted", r"__syncwarp\(\);", ";"),
    ("wait weakened", r"ptx::wait_copies<kStages - 2>\(\);", "ptx::wait_copies<kStages - 1>();"),
    ("wait deleted", r"ptx::wait_copies<0>\(\);", ";"),
    ("bound raised", r"(?<=[\w\])]) < (?=[\w(])", " <= "),
    ("bound lowered", r"(?<=[\w\])]) <= (?=[\w(])", " < "),
    ("comparison swapped", r"(?<=[\w\])]) > (?=[\w(])", " < "),
    ("lower bound raised", r"(?<=[\w\])]) >= (?=[\w(])", " > "),
    ("predicate dropped", r"if \((?!constexpr|cudaError_t)", "if (true || "),
    ("predicate forced false", r"if \((?!constexpr|cudaError_t)", "if (false && "),
    ("condition dropped", r"(?<=[\w)]) && (?=[\w(!])", " || "),
    ("condition weakened", r"(?<=[\w)]) \|\| (?=[\w(!])", " && "),
    ("plus made minus", r"(?<=[\w)\]]) \+ (?=[\w(])", " - "),
    ("minus made plus", r"(?<=[\w)\]]) - (?=[\w(])", " + "),
    ("accumulation overwritten", r" \+= ", " = "),
    ("equality inverted", r" == ", " != "),
    ("constant one made zero", r"T\(1\)", "T(0)"),
]


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    column: int
    rule: str
    before: str
    after: str
    verdict: str = "not run"  # killed, survived, does not compile, timeout
    by: str = ""

    def key(self) -> tuple[str, str, str, str, int]:
        """The same mutant in another run, wherever its line has moved to."""
        return self.file, self.rule, self.before, self.after, self.column


def judged_before(out: Path) -> dict[tuple[str, str, str, str, int], Mutant]:
    """Mutants of an earlier run that need not be made again: those killed, and survivors with a reason."""
    path = out.with_suffix(".json")
    if not path.exists():
        return {}
    found = [Mutant(**fields) for fields in json.loads(path.read_text())["done"]]
    return {m.key(): m for m in found if m.verdict == "killed" or (m.verdict == "survived" and reason(m))}


def mutants(folder: Path) -> Iterator[Mutant]:
    for file in sorted(folder.glob("*.cuh")):
        for number, text in enumerate(file.read_text().splitlines(), 1):
            code = text.split("//")[0]
            if code.lstrip().startswith(("#", "static_assert", "template")):
                continue
            for name, pattern, replacement in RULES:
                for m in re.finditer(pattern, code):
                    after = text[: m.start()] + re.sub(pattern, replacement, m[0]) + text[m.end() :]
                    if after == text:  # a look-behind pattern: substitute by position
                        after = text[: m.start()] + replacement + text[m.end() :]
                    where = str(file.relative_to(REPOSITORY))
                    yield Mutant(where, number, m.start(), name, text.strip(), after.strip())


def runs(kernels: list[Kernel], dtypes: set[str]) -> Iterator[tuple[Kernel, int, str]]:
    for kernel in kernels:
        for shape, dtype in itertools.product(range(len(kernel.shapes)), kernel.dtypes):
            if dtype in dtypes:
                yield kernel, shape, dtype


def first_difference(library_path: Path, kernels: list[Kernel], build: str) -> str:
    """The run that notices, or an empty string."""
    worker = Worker(library_path, asan=build == "asan", seconds=20)
    schedules = [Schedule(0), Schedule(2, 3, True)] if build == "unoptimised" else [Schedule(0)]
    dtypes = {"f32", "tf32", "bf16", "f64"} if build == "unoptimised" else {"f32", "tf32", "bf16"}
    try:
        for kernel, shape, dtype in runs(kernels, dtypes):
            problem = kernel.problem(kernel.shapes[shape], dtype, np.random.default_rng([shape, len(dtype)]))
            for schedule in schedules:
                label = f"{kernel.name} {dtype} {dict(kernel.shapes[shape])} {build} {schedule.label()}"
                try:
                    out = worker.call(kernel.function, problem.sizes, problem.buffers, schedule)
                    for name, expected in problem.expected.items():
                        got = problem.value(name, out[name])
                        compare(name, got, expected, problem.rtol, problem.atol.get(name, 0.0))
                except (KernelFault, AssertionError) as e:
                    return f"{label}: {str(e).splitlines()[0][:160]}"
        return ""
    finally:
        worker.stop()


def judge(mutant: Mutant, operation: str) -> Mutant:
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=CACHE) as folder:
        root = Path(folder)
        shutil.copytree(REPOSITORY / "csrc", root / "csrc")
        file = root / mutant.file
        lines = file.read_text().splitlines(keepends=True)
        indent = lines[mutant.line - 1][: len(lines[mutant.line - 1]) - len(lines[mutant.line - 1].lstrip())]
        lines[mutant.line - 1] = f"{indent}{mutant.after}\n"
        file.write_text("".join(lines))
        driver = HERE / "drivers" / DRIVERS[operation]
        for build in BUILDS_IN_TURN:
            target = Target(driver, build=build, root=root)
            try:
                path = library(target)
            except BuildError:
                return replace(mutant, verdict="does not compile")
            by = first_difference(path, SUITES[operation], build)
            path.unlink()  # a mutant's library is of no use to a later run
            path.with_suffix(path.suffix + ".lock").unlink(missing_ok=True)
            if by:
                return replace(mutant, verdict="killed", by=by)
    return replace(mutant, verdict="survived")


def reason(mutant: Mutant) -> str:
    """Why nothing can notice the mutant, if survivors.json has it."""
    name = Path(mutant.file).name
    return next((r["why"] for r in EXPLAINED if r["file"] == name and r["mutant"] == mutant.after), "")


def report(done: list[Mutant], total: int, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    counts = {v: sum(m.verdict == v for m in done) for v in ("killed", "survived", "does not compile")}
    tried = counts["killed"] + counts["survived"]
    score = counts["killed"] / tried if tried else 0.0
    write_json(
        out.with_suffix(".json"), {"mutants": total, "score": score, **counts, "done": [asdict(m) for m in done]}
    )
    lines = [f"{counts['killed']} of {tried} mutants killed ({score:.0%}); {total} exist, {len(done)} were made.", ""]
    lines += ["| survivor | rule | mutant | why it survives |", "|---|---|---|---|"]
    for m in done:
        if m.verdict == "survived":
            code = m.after.replace("|", "\\|")
            lines.append(f"| {Path(m.file).name}:{m.line} | {m.rule} | `{code}` | {reason(m) or 'not explained'} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operation", default="cache_retrieval", choices=sorted(SUITES))
    parser.add_argument("--minutes", type=float, default=10, help="start no mutant after this time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, help="this many mutants, drawn with --seed; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rule", help="only rules whose name contains this")
    parser.add_argument("--fresh", action="store_true", help="make all mutants again")
    parser.add_argument("--out", type=Path, help="build/mutation/OPERATION by default")
    options = parser.parse_args()
    out = options.out or REPOSITORY / "build" / "mutation" / options.operation
    CACHE.mkdir(parents=True, exist_ok=True)
    everything = list(mutants(REPOSITORY / "csrc" / options.operation))
    chosen = [m for m in everything if not options.rule or options.rule in m.rule]
    random.Random(options.seed).shuffle(chosen)
    chosen = chosen[: options.sample]
    known = {} if options.fresh else judged_before(out)
    done = [replace(m, verdict=known[m.key()].verdict, by=known[m.key()].by) for m in chosen if m.key() in known]
    chosen = [m for m in chosen if m.key() not in known]
    end = time.monotonic() + 60 * options.minutes

    def one(mutant: Mutant) -> Mutant | None:
        return judge(mutant, options.operation) if time.monotonic() < end else None

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(one, chosen):
            if result is None:
                continue
            done.append(result)
            print(f"{result.verdict:9} {result.file}:{result.line} {result.rule}: {result.after}", flush=True)
            report(done, len(everything), out)
    print(json.dumps({v: sum(m.verdict == v for m in done) for v in ("killed", "survived", "does not compile")}))


if __name__ == "__main__":
    main()
