"""The p-adapter on a BLIP of real size (base, 384 pixels: 577 image tokens), with random weights, on the CPU.

One training step and one beam search, each within a limit of resident memory, measured in a process of its own; and
what the released code's formulation would keep for backward at the same sizes without its pooling (computed, not run).

    python scripts/real_size_blip.py [--batch 8] [--limit-gb 6] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from vlmadapt.generative.real_size import Sizes, described, measure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(Sizes(), given.batch, given.new_tokens, given.beams)))
        return 0
    child = subprocess.run([sys.executable, __file__, "--measure", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    if child.returncode:
        return child.returncode
    found = json.loads(child.stdout.splitlines()[-1])
    print(described(found, Sizes(), given.new_tokens, given.beams))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if found["peak_gb"] > given.limit_gb:
        print(f"over the limit of {given.limit_gb:g} GB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
