"""compute-sanitizer over some cases of the matrix: without torch each tool takes seconds."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.borrowed import matrix
from benchmarks.borrowed.child import Child, main

TOOLS = ("memcheck", "racecheck", "initcheck")
DTYPES = ("f32", "tf32", "bf16")
SHAPE = 5  # of each kernel: one that is neither whole tiles nor tiny
SECONDS = 60.0  # a case


def summary(log: str) -> tuple[int | None, str]:
    """Errors by the tool's own count, None where it did not come to its end, and the first of them."""
    counted = re.findall(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", log)
    first = [
        line.removeprefix("=========").strip() for line in log.splitlines() if re.search(r"Invalid|rror|azard", line)
    ]
    return (sum(map(int, counted)) if counted else None), "; ".join(first[:6])


def run(child: Child) -> None:
    tool_path = shutil.which("compute-sanitizer")
    if tool_path is None:
        child.skip("compute-sanitizer is not there")
    version = subprocess.run([str(tool_path), "--version"], capture_output=True, text=True)
    if version.returncode:
        child.skip(
            f"compute-sanitizer --version ends with {version.returncode}: {version.stdout}{version.stderr}"[:300]
        )
    library = matrix.library(child)
    from tests.cuda_on_cpu.harness.process import Worker

    chosen = [(kernel, min(SHAPE, len(kernel.shapes) - 1), dtype)
              for kernel, shape, dtype in matrix.problems() if shape == 0 and dtype in DTYPES]  # fmt: skip
    for tool in TOOLS:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            under = [str(tool_path), "--tool", tool, "--log-file", str(log), "--target-processes", "all"]
            worker = Worker(library, asan=False, seconds=SECONDS, under=under)
            done = 0
            for kernel, shape, dtype in chosen:
                if child.left() < 5:
                    break
                wrong = matrix.attempt(worker, kernel, shape, dtype)
                child.check(f"{tool} {matrix.name_of(kernel, shape, dtype)}", not wrong, wrong)
                done += 1
            worker.finish()
            text = log.read_text(errors="replace") if log.exists() else ""
        print(text[-4000:], flush=True)
        errors, first = summary(text)
        child.check(f"{tool}, {done} of {len(chosen)} cases", errors == 0, f"{errors} errors: {first}")


if __name__ == "__main__":
    main(run)
