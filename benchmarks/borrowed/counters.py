"""Hardware counters of three kernels by ncu, where it is there: which unit is busy, of those that were predicted."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess

from benchmarks.borrowed.child import Child, environment, main

BUSY = "pct_of_peak_sustained_elapsed"
SAFE = ["gpu__time_duration.sum", *(f"{unit}__throughput.avg.{BUSY}" for unit in ("sm", "lts", "dram"))]
PIPES = ("l1tex__data_pipe_lsu_wavefronts", "sm__inst_executed_pipe_tensor", "sm__pipe_fma_cycles_active")
MORE = [f"{pipe}.avg.{BUSY}" for pipe in PIPES]
# The kernel that the first race of ours of that kind launches.
KERNELS = {"cache": "class_sums_kernel", "p_laplacian": "forward_kernel", "hetero": "aggregate_kernel"}


def one(child: Child, name: str) -> None:
    """What ncu looks at: three calls, of which it takes the second."""
    import torch  # not above: where there is no ncu nothing need wait for it

    from benchmarks.borrowed.races import KINDS

    torch.set_default_device(child.device)
    race = next(KINDS[name](child.dry))
    function = race.rivals["ours"]()
    for _ in range(3):
        function(*race.inputs)
    if not child.dry:
        torch.cuda.synchronize()


def values(printed: str) -> dict[str, str]:
    """Metrics of the first kernel in ncu's CSV, with their units."""
    lines = printed[printed.index('"ID"') :] if '"ID"' in printed else ""
    return {
        row["Metric Name"]: f"{row['Metric Value']} {row['Metric Unit']}" for row in csv.DictReader(io.StringIO(lines))
    }


def run(child: Child) -> None:
    if child.more:
        one(child, child.more[0])
        return
    tool = shutil.which("ncu")
    if tool is None:
        child.skip("ncu is not there")
    for name, kernel in KERNELS.items():
        for metrics in ([*SAFE, *MORE], SAFE):  # an unknown name of a metric ends ncu
            command = [str(tool), "--clock-control", "none", "--csv", "--metrics", ",".join(metrics)]
            command += ["--kernel-name", f"regex:{kernel}", "--launch-skip", "1", "--launch-count", "1"]
            if child.left() < 5:
                return
            try:
                done = subprocess.run([*command, *child.command("counters", name)], env=environment(),
                                      capture_output=True, text=True, timeout=child.left())  # fmt: skip
            except subprocess.TimeoutExpired:
                child.note(f"counters of {name}", "out of time")
                return
            found = values(done.stdout)
            for metric, value in found.items():
                child.note(f"{name}, {kernel}: {metric}", value)
            if found:
                break
            print(done.stdout[-1500:], done.stderr[-1500:], flush=True)


if __name__ == "__main__":
    main(run)
