"""Mutation testing of our own CUDA kernels: does the suite notice when a line is broken?

    python -m tests.cuda_on_cpu.mutate --operation p_laplacian [--minutes 10] [--jobs 2] [--sample 40]
    python -m tests.cuda_on_cpu.mutate --page docs/cuda_mutants.md

Each mutant changes one place of a .cuh file: a barrier or wait deleted, a comparison shifted by one, a predicate
dropped or forced, < and > swapped, a + made -. It is run through route A's plain build and, where that notices nothing,
through the race and the ASan build, all without optimisation. Most mutants are behind switches in one library a build,
and each is run where it would change something (switches.py); the others are compiled one by one in a copy of csrc/.
The kernels as they are must pass first. Survivors are listed with their line and with what survivors.json says of them;
results go to build/mutation/OPERATION.json and .md after every mutant. A later run goes on from there: it makes
unexplained survivors again, all others only with --fresh. --take-over REVISION begins with what the committed page of
that revision says of mutants whose line is the same today. --page makes no mutant: it writes the results of all
operations to one page.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import itertools
import json
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vlmadapt.files import write_json

from . import (
    switches,
    test_attention_column_sums,
    test_cache_retrieval,
    test_cache_retrieval_chunked,
    test_cache_retrieval_dense,
    test_cache_retrieval_few,
    test_hetero_aggregate,
    test_p_laplacian,
    test_p_laplacian_flash,
)
from .harness.build import CACHE, HERE, REPOSITORY, BuildError, Target, library
from .harness.case import Kernel, Problem
from .harness.numbers import DTYPE_CODE
from .harness.process import KernelFault, Schedule, Worker

SUITES = {
    "cache_retrieval": [test_cache_retrieval.FORWARD, test_cache_retrieval.BACKWARD, test_cache_retrieval.GRID],
    "cache_retrieval_chunked": [test_cache_retrieval_chunked.FORWARD, test_cache_retrieval_chunked.BACKWARD],
    "cache_retrieval_dense": [test_cache_retrieval_dense.FORWARD, test_cache_retrieval_dense.BACKWARD],
    "cache_retrieval_few": [test_cache_retrieval_few.FEW],
    "hetero_aggregate": [test_hetero_aggregate.FORWARD, test_hetero_aggregate.BACKWARD],
    "p_laplacian": [test_p_laplacian.FORWARD, test_p_laplacian.BACKWARD, test_p_laplacian_flash.FLASH],
    "attention_column_sums": [test_attention_column_sums.FORWARD, test_attention_column_sums.BACKWARD],
}
DRIVERS = {operation: f"{operation}.cu" for operation in SUITES}

BUILDS = {"plain": "values, guards and emulated faults", "race": "the race checker", "asan": "ASan + UBSan"}
EARLIER = "an earlier run"  # what killed a mutant that was taken over
# A survivor of the page.
ROW = re.compile(r"^\| (?P<file>[\w.]+):(?P<line>\d+) \| (?P<rule>[\w ]+) \| `(?P<after>.*)` \| (?P<why>.+) \|$", re.M)

PAGE = """# Mutants of the CUDA kernels

Written by `python -m tests.cuda_on_cpu.mutate --page`. Each mutant changes one place of a kernel, and the suite must
notice in one of three builds of route A: see [CUDA](cuda.md). Reasons are kept in `tests/cuda_on_cpu/survivors.json`.
"""

# Mutants that nothing can notice, and why: operation/file, text of the mutated line, reason; a rule where it matters.
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
    copy: int = 0  # of lines with the same text, which one
    verdict: str = "not run"  # killed, survived, does not compile, timeout
    by: str = ""

    def key(self) -> Key:
        """The same mutant in another run, wherever its line has moved to."""
        return self.file, self.rule, self.before, self.after, self.column, self.copy


Key = tuple[str, str, str, str, int, int]


def results(operation: str) -> Path:
    return REPOSITORY / "build" / "mutation" / operation


def judged_before(operation: str) -> dict[Key, Mutant]:
    path = results(operation).with_suffix(".json")
    found = json.loads(path.read_text())["done"] if path.exists() else []
    return {m.key(): m for m in (Mutant(**fields) for fields in found)}


def section_of(page: str, operation: str) -> str:
    return re.split(r"^## ", page.split(f"\n## {operation}\n")[1], flags=re.M)[0]


Place = tuple[str, int, str, str]


def survivors_of(page: str, operation: str) -> set[Place]:
    """File, line, rule and text of those that the page lists."""
    rows = ROW.finditer(section_of(page, operation))
    return {(m["file"], int(m["line"]), m["rule"], m["after"].replace("\\|", "|")) for m in rows}


def place_of(mutant: Mutant) -> Place:
    return mutant.file.rsplit("/", 1)[1], mutant.line, mutant.rule, mutant.after


def taken_over(operation: str, revision: str) -> dict[Key, Mutant]:
    """What the page of a revision says of its mutants: it lists survivors, and all others were killed."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["git", "archive", revision, f"csrc/{operation}", "docs/cuda_mutants.md"]
        archive = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
        subprocess.run(["tar", "--extract", f"--directory={folder}"], input=archive, check=True)
        survivors = survivors_of((Path(folder) / "docs" / "cuda_mutants.md").read_text(), operation)
        found = {}
        for mutant in mutants(operation, Path(folder)):
            survived = place_of(mutant) in survivors
            verdict, by = ("survived", "") if survived else ("killed", EARLIER)
            found[mutant.key()] = replace(mutant, verdict=verdict, by=by)
        return found


def mutants(operation: str, root: Path = REPOSITORY) -> Iterator[Mutant]:
    folder = root / "csrc" / operation
    copies: collections.Counter[Key] = collections.Counter()
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
                    where = str(file.relative_to(root))
                    mutant = Mutant(where, number, m.start(), name, text.strip(), after.strip())
                    yield replace(mutant, copy=copies[mutant.key()])
                    copies[mutant.key()] += 1


@dataclass(frozen=True)
class Stage:
    build: str
    dtypes: tuple[str, ...]
    schedules: tuple[Schedule, ...] = (Schedule(0),)


FLOAT = ("f32", "tf32")
SIXTEEN_BITS = "flash_"  # how the names of files begin whose kernels take these types alone


def stages(operation: str, chosen: Iterable[Mutant]) -> list[Stage]:
    """In turn, each for what the earlier ones let pass; float first, where few instantiations have to be compiled.

    The sanitizers see float alone where a kernel only widens what it loads; these two have products in 16 bits.
    """
    if all(Path(m.file).name.startswith(SIXTEEN_BITS) for m in chosen):
        both = Stage("plain", ("bf16", "f16"), (Schedule(0), Schedule(2, 3, True)))
        return [both, Stage("race", ("bf16",)), Stage("asan", ("bf16",))]
    sanitized = (*FLOAT, "bf16") if operation.startswith(("cache_retrieval", "p_laplacian")) else FLOAT
    return [
        Stage("plain", FLOAT),
        Stage("plain", (*FLOAT, "bf16", "f64"), (Schedule(0), Schedule(2, 3, True))),
        Stage("race", sanitized),
        Stage("asan", sanitized),
    ]


def keep_instantiations(launcher: Path, dtypes: tuple[str, ...]) -> None:
    """Leaves only these cases in the launcher's switches."""
    others = "|".join(sorted(set(DTYPE_CODE) - set(dtypes)))
    launcher.write_text(re.sub(rf"case Dtype::(?:{others}):\s[^;]*;(?:\s*break;)?", "", launcher.read_text()))


Run = tuple[Kernel, int, str, Schedule]


def runs(kernels: list[Kernel], stage: Stage) -> Iterator[Run]:
    for dtype, schedule, kernel in itertools.product(stage.dtypes, stage.schedules, kernels):
        if dtype in kernel.dtypes:
            yield from ((kernel, shape, dtype, schedule) for shape in range(len(kernel.shapes)))


@functools.cache
def problem_of(name: str, shape: int, dtype: str) -> Problem:
    """Inputs and reference: the same for every mutant."""
    kernel = next(k for kernels in SUITES.values() for k in kernels if k.name == name)
    return kernel.problem(kernel.shapes[shape], dtype, np.random.default_rng([shape, len(dtype)]))


def first_difference(
    library_path: Path, chosen: Iterable[Run], build: str, mutant: int | None = None, seconds: float = 10
) -> str:
    """The run that notices, or an empty string."""
    worker = Worker(library_path, asan=build == "asan", seconds=seconds, mutant=mutant)
    try:
        return next(filter(None, (difference(worker, run, build) for run in chosen)), "")
    finally:
        worker.stop()


def difference(worker: Worker, run: Run, build: str) -> str:
    kernel, shape, dtype, schedule = run
    problem = problem_of(kernel.name, shape, dtype)
    try:
        problem.check(worker.call(kernel.function, problem.sizes, problem.buffers, schedule))
    except (KernelFault, AssertionError) as e:
        label = f"{kernel.name} {dtype} {dict(kernel.shapes[shape])} {build} {schedule.label()}"
        return f"{label}: {str(e).splitlines()[0][:160]}"
    return ""


@functools.cache
def check_unchanged(operation: str, stage: Stage) -> None:
    """A suite that complains about the kernels as they are would kill every mutant."""
    path = library(Target(HERE / "drivers" / DRIVERS[operation], build=f"{stage.build}-fast"))
    if problem := first_difference(path, runs(SUITES[operation], stage), stage.build):
        raise SystemExit(f"without a mutation: {problem}")


@contextlib.contextmanager
def copy_of_sources() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=CACHE) as folder:
        shutil.copytree(REPOSITORY / "csrc", Path(folder) / "csrc")
        yield Path(folder)


@contextlib.contextmanager
def library_of(root: Path, operation: str, stage: Stage) -> Iterator[Path]:
    """Compiled for a stage's types; gone afterwards, for it is of no use to a later run."""
    launcher = root / "csrc" / operation / "cuda.cu"
    every_type = launcher.read_text()
    keep_instantiations(launcher, stage.dtypes)
    try:
        path = library(Target(HERE / "drivers" / DRIVERS[operation], build=f"{stage.build}-fast", root=root))
    finally:
        launcher.write_text(every_type)
    try:
        yield path
    finally:
        path.unlink()
        path.with_suffix(path.suffix + ".lock").unlink(missing_ok=True)


def judge(mutant: Mutant, operation: str) -> Mutant:
    """By a compilation of its own."""
    with copy_of_sources() as root:
        file = root / mutant.file
        lines = file.read_text().splitlines(keepends=True)
        indent = lines[mutant.line - 1][: len(lines[mutant.line - 1]) - len(lines[mutant.line - 1].lstrip())]
        lines[mutant.line - 1] = f"{indent}{mutant.after}\n"
        file.write_text("".join(lines))
        for stage in stages(operation, [mutant]):
            check_unchanged(operation, stage)
            try:
                with library_of(root, operation, stage) as path:
                    by = first_difference(path, runs(SUITES[operation], stage), stage.build)
            except BuildError:
                return replace(mutant, verdict="does not compile")
            if by:
                return replace(mutant, verdict="killed", by=by)
    return replace(mutant, verdict="survived")


class Together:
    """Mutants that are behind switches in one library, a stage after the other; those that cannot be are in `alone`."""

    def __init__(self, chosen: list[Mutant], operation: str) -> None:
        self.operation = operation
        can = [m for m in chosen if switches.can_be_switched(m, m.before)]
        self.numbered = list(enumerate(can))
        while self.numbered and (refused := self.refused()):
            self.numbered = [(n, m) for n, m in self.numbered if (m.file, m.line) not in refused]
        inside = {m for _, m in self.numbered}
        self.alone = [m for m in chosen if m not in inside]

    @contextlib.contextmanager
    def library(self, stage: Stage) -> Iterator[Path]:
        with copy_of_sources() as root:
            switches.write_switches(root, self.numbered)
            with library_of(root, self.operation, stage) as path:
                yield path

    def refused(self) -> set[tuple[str, int]]:
        with copy_of_sources() as root:
            switches.write_switches(root, self.numbered)
            try:
                with library_of(root, self.operation, Stage("plain", tuple(DTYPE_CODE))):
                    return set()
            except BuildError as e:
                if refused := switches.refused_lines(str(e), root):
                    return refused
                raise

    def meetings(self, path: Path, stage: Stage) -> tuple[dict[int, list[Run]], float]:
        """Of each mutant the runs that it can change, by a pass without any; and when one that does not end is over."""
        slowest = 0.0
        found: dict[int, list[Run]] = collections.defaultdict(list)
        worker = Worker(path, asan=stage.build == "asan", seconds=60, mutant=-1)
        try:
            for run in runs(SUITES[self.operation], stage):
                if problem := difference(worker, run, stage.build):
                    raise SystemExit(f"without a mutation: {problem}")
                slowest = max(slowest, worker.used)
                for number in worker.met:
                    found[number].append(run)
        finally:
            worker.stop()
        return found, max(1.0, 20 * slowest)

    def judged(self, pool: concurrent.futures.Executor, end: float) -> Iterator[Mutant]:
        def one(job: tuple[Path, list[Run], str, int, float]) -> str | None:
            return first_difference(*job) if time.monotonic() < end else None

        alive, chosen = self.numbered, [mutant for _, mutant in self.numbered]
        for stage in stages(self.operation, chosen):
            if not alive:
                return
            with self.library(stage) as path:
                met, seconds = self.meetings(path, stage)
                jobs = [(path, met[number], stage.build, number, seconds) for number, _ in alive]
                left = []
                for numbered, by in zip(alive, pool.map(one, jobs), strict=True):
                    if by:
                        yield replace(numbered[1], verdict="killed", by=by)
                    elif by is not None:
                        left.append(numbered)
                alive = left
        yield from (replace(mutant, verdict="survived") for _, mutant in alive)


def reason(mutant: Mutant) -> str:
    """Why nothing can notice the mutant, if survivors.json has it."""
    name = mutant.file.removeprefix("csrc/")
    fitting = (r for r in EXPLAINED if r["file"] == name and r.get("rule", mutant.rule) == mutant.rule)
    return next((r["why"] for r in fitting if r["mutant"] == mutant.after), "")


def markdown(done: list[Mutant], total: int) -> str:
    count = collections.Counter(m.verdict for m in done)
    tried = count["killed"] + count["survived"]
    by = collections.Counter(next((b for b in BUILDS if f" {b} " in m.by), "") for m in done)
    builds = ", ".join(f"{by[b]} by {name}" for b, name in BUILDS.items())
    if earlier := sum(m.by == EARLIER for m in done):
        builds += f", {earlier} in {EARLIER}, and their lines are the same"
    made = "all were made" if len(done) == total else f"{len(done)} of them were made"
    compiled = f"; {count['does not compile']} did not compile" if count["does not compile"] else ""
    share = count["killed"] / tried if tried else 0.0
    lines = [f"{count['killed']} of {tried} mutants killed ({share:.0%}): {builds}."]
    lines += [f"{total} exist, {made}{compiled}.", ""]
    lines += ["| survivor | rule | mutant | why it survives |", "|---|---|---|---|"]
    for m in sorted((m for m in done if m.verdict == "survived"), key=lambda m: (m.file, m.line)):
        code = m.after.replace("|", "\\|")
        lines.append(f"| {Path(m.file).name}:{m.line} | {m.rule} | `{code}` | {reason(m) or 'not explained'} |")
    return "\n".join(lines) + "\n"


def report(done: list[Mutant], total: int, operation: str) -> None:
    out = results(operation)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), {"mutants": total, "done": [asdict(m) for m in done]})
    out.with_suffix(".md").write_text(markdown(done, total))


def write_page(path: Path) -> None:
    text = PAGE
    for operation in SUITES:
        everything, known = list(mutants(operation)), judged_before(operation)
        done = [replace(known[m.key()], line=m.line) for m in everything if m.key() in known]
        text += f"\n## {operation}\n\n{markdown(done, len(everything))}"
    path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operation", default="cache_retrieval", choices=sorted(SUITES))
    parser.add_argument("--minutes", type=float, default=10, help="start no mutant after this time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, help="this many mutants, drawn with --seed; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rule", help="only rules whose name contains this")
    parser.add_argument("--file", nargs="+", default=[""], help="only files whose name begins with one of these")
    parser.add_argument("--fresh", action="store_true", help="make all mutants again")
    parser.add_argument("--take-over", metavar="REVISION", help="begin with what the page of this commit says")
    parser.add_argument("--page", type=Path, help="write the results so far of all operations to this file")
    options = parser.parse_args()
    if options.page:
        write_page(options.page)
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    everything = list(mutants(options.operation))
    chosen = [m for m in everything if not options.rule or options.rule in m.rule]
    chosen = [m for m in chosen if Path(m.file).name.startswith(tuple(options.file))]
    random.Random(options.seed).shuffle(chosen)
    chosen = chosen[: options.sample]
    known = {} if options.fresh else judged_before(options.operation)
    if options.take_over:
        known = taken_over(options.operation, options.take_over) | known
    known = {k: m for k, m in known.items() if m.verdict != "survived" or reason(m)}
    done = [replace(known[m.key()], line=m.line) for m in everything if m.key() in known]
    chosen = [m for m in chosen if m.key() not in known]
    end = time.monotonic() + 60 * options.minutes

    def one(mutant: Mutant) -> Mutant | None:
        return judge(mutant, options.operation) if time.monotonic() < end else None

    def each_alone(pool: concurrent.futures.Executor, mutants: list[Mutant]) -> Iterator[Mutant]:
        yield from filter(None, pool.map(one, mutants))

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        together = Together(chosen, options.operation)
        for result in itertools.chain(together.judged(pool, end), each_alone(pool, together.alone)):
            done.append(result)
            print(f"{result.verdict:9} {result.file}:{result.line} {result.rule}: {result.after}", flush=True)
            report(done, len(everything), options.operation)
    report(done, len(everything), options.operation)  # what was taken over too, where nothing is left to make
    print(json.dumps({v: sum(m.verdict == v for m in done) for v in ("killed", "survived", "does not compile")}))


if __name__ == "__main__":
    main()
