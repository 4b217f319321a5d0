"""Everything that needs a GPU: ``make gpu``.

Operator tests on the device, compute-sanitizer over them, and the benchmarks with CUDA events; writes
``build/gpu/results.json`` and ``docs/gpu.md``. Without a device it says so and ends well: nothing can be shown there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import page, results
from vlmadapt.atomic import atomic_path
from vlmadapt.files import write_json
from vlmadapt.ops import build_info

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "gpu"
PYTEST = [sys.executable, "-m", "pytest", "--device", "cuda"]
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# torch.compile makes kernels that are not ours, and gradcheck thousands of launches: too slow under the sanitizer.
SANITIZED = "not compile and not gradcheck and not opcheck"


def obstacle() -> str | None:
    """Why nothing can run here."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    if build_info()["cuda_library"] is None:
        return "the package was built without CUDA kernels: run `make cuda` first"
    if not build_info()["cuda_library_loaded"]:
        return f"the CUDA library does not load: {build_info()['error']}"
    return None


def run(name: str, command: list[str]) -> dict[str, object]:
    """Runs, keeps the output in build/gpu, and reports the last line and the exit status."""
    log = OUT / f"{name}.log"
    print(f"{name}: {' '.join(Path(part).name for part in command[:3])} ... > {log.relative_to(ROOT)}", flush=True)
    with log.open("w") as stream:
        code = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT).returncode
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    summary = next((line for line in reversed(lines) if re.search(r"passed|failed|ERROR SUMMARY|error", line)), "")
    print(f"  {'ok' if code == 0 else f'exit status {code}'}: {summary}", flush=True)
    return {"check": name, "exit_status": code, "summary": summary}


def checks(sanitize: bool) -> list[dict[str, object]]:
    done = [run("tests", [*PYTEST, "tests/ops"])]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitize and sanitizer:
        for tool in TOOLS:
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
            done.append(run(tool, [*command, *PYTEST, "tests/ops", "-k", SANITIZED, "-p", "no:cacheprovider"]))
    else:
        done.append({"check": "compute-sanitizer", "exit_status": None, "summary": "not found, or left out: not run"})
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-sanitizer", action="store_true", help="leave compute-sanitizer out (it takes longest)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "gpu.md")
    options = parser.parse_args()
    if reason := obstacle():
        print(f"make gpu: {reason}. Nothing was run and nothing was written.")
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    done = checks(not options.no_sanitizer)
    measured = OUT / "benchmarks.json"
    timed = ["--benchmark-enable", "--benchmark-only", f"--benchmark-json={measured}"]
    done.append(run("benchmarks", [*PYTEST, "benchmarks", *timed]))
    write_json(OUT / "results.json", {"device": torch.cuda.get_device_name(), "build": build_info(), "checks": done})
    table = ["\n## Checks on the device\n", "| check | exit status | |", "|---|---|---|"]
    table += [f"| {one['check']} | {one['exit_status']} | {one['summary']} |" for one in done]
    measured_page = page.page(results.load(measured), options.page.parent, prefix="gpu")
    with atomic_path(options.page) as path:
        path.write_text(measured_page + "\n".join(table) + "\n")
    print(f"{options.page} written")
    return 1 if any(one["exit_status"] for one in done) else 0


if __name__ == "__main__":
    sys.exit(main())
