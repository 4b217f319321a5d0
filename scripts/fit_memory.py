"""What a default fit holds beyond the features, and how long it takes: docs/adapters.md, Memory.

python scripts/fit_memory.py METHOD ... [--classes 1000] [--shots 16] [--width 1024] [--set FIELD=JSON ...]

Random unit features, four validation pictures a class, one process a method. Peak is the largest resident size of
``fit`` and of ``predict`` on 10,000 queries, less what was resident before. What trains through a text tower has the
embedded backbone's, and its width. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmadapt.adapters import ADAPTERS, create_adapter
from vlmadapt.backbones import load_encoder
from vlmadapt.provenance.memory import PeakMemory

QUERIES = 10_000


def unit(rows: int, width: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def measure(name: str, classes: int, shots: int, width: int, settings: dict[str, Any]) -> None:
    """Print one row of the table."""
    encoder = load_encoder("embedded") if ADAPTERS[name].needs_encoder else None
    width = width if encoder is None else encoder.width
    text, negative = unit(classes, width, 0), unit(classes, width, 1)
    labels, val_labels = torch.arange(classes).repeat(shots), torch.arange(classes).repeat(4)
    features, val_features = unit(len(labels), width, 2), unit(len(val_labels), width, 3)
    queries = unit(QUERIES, width, 4)
    names = [f"class number {number}" for number in range(classes)]
    adapter = create_adapter(name, text, 100.0, settings, names, encoder, negative)
    with PeakMemory() as before:
        pass
    started = time.perf_counter()
    with PeakMemory() as fit:
        adapter.fit(features, labels, val_features, val_labels)
    seconds, started = time.perf_counter() - started, time.perf_counter()
    with PeakMemory() as prediction:
        adapter.predict(queries)
    predicting = time.perf_counter() - started
    said = ", ".join(f"{field}={value}" for field, value in settings.items()) or "defaults"
    numbers = f"{fit.mib - before.mib:.0f} | {seconds:.0f} | {prediction.mib - before.mib:.0f} | {predicting:.1f}"
    print(f"| `{name}` | {said} | {numbers} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="+", choices=list(ADAPTERS))
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=JSON", help="of methods that have the field")
    options = parser.parse_args()
    if len(options.methods) > 1:  # what one fit left behind must not hide what the next one takes
        for name in options.methods:
            others = [argument for argument in sys.argv[1:] if argument not in options.methods]
            subprocess.run([sys.executable, __file__, name, *others], check=True)
        return
    name = options.methods[0]
    fields = {field for field, _, _ in ADAPTERS[name].config_class.describe()}
    pairs = dict(pair.split("=") for pair in options.set)
    known = {field: value for field, value in pairs.items() if field in fields}
    settings = {field: json.loads(value) for field, value in known.items()}
    measure(name, options.classes, options.shots, options.width, settings)


if __name__ == "__main__":
    main()
