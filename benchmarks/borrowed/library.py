"""The compiled operators: those that are carried along, or built in place where they do not load."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

from benchmarks.borrowed.child import ROOT, Child, environment, main

PROBE = "import json, torch; from vlmadapt.ops import build_info; print(json.dumps(build_info()))"
BUILD = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]


def loaded() -> dict[str, object]:
    """What a fresh process says of the library; an "error" where it cannot."""
    command = [sys.executable, *(["-S"] if sys.flags.no_site else []), "-c", PROBE]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    try:
        info = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    return info if isinstance(info, dict) else {"error": "no answer"}


def obstacle(info: dict[str, object], dry: bool) -> str | None:
    """Why what was found does not serve here."""
    wanted = "cpu_library" if dry else "cuda_library_loaded"
    if info.get("error") or not info.get(wanted):
        return str(info.get("error") or f"{wanted} is {info.get(wanted)}")
    archs = [str(arch).partition("+")[0] for arch in info.get("cuda_archs") or []]  # type: ignore[attr-defined]
    return None if dry or architecture() in archs else f"built for {archs} and not for {architecture()}"


def architecture() -> str:
    import torch

    return "{}.{}".format(*torch.cuda.get_device_capability())


def build(child: Child) -> None:
    variables = {"FORCE_CUDA": "0"} if child.dry else {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture()}
    try:
        done = subprocess.run(BUILD, cwd=ROOT, env=environment(**variables), timeout=max(child.left(), 1))
    except subprocess.TimeoutExpired:
        child.check("build in place", False, f"not done after {child.seconds:.0f} s")
        return
    child.check("build in place", done.returncode == 0, "the compiler's words are in log.txt")


def run(child: Child) -> None:
    info = loaded()
    problem = obstacle(info, child.dry)
    child.note("carried library", problem or "loads")
    if problem:
        build(child)
        info = loaded()
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((ROOT / "csrc").rglob("*.*")))).hexdigest()
    child.log.write("library", **info, sources=sources[:12])
    child.check("the operators load", obstacle(info, child.dry) is None, str(info.get("error") or ""))


if __name__ == "__main__":
    main(run)
