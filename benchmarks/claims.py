"""README's table of speeds: of every processor measured the worst.

    python -m benchmarks.claims README.md

rewrites what stands between the markers from the files under machines/.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machines import Machine, kept
from vlmadapt.atomic import atomic_path

BEGIN, END = "<!-- speeds: python -m benchmarks.claims README.md -->", "<!-- end of speeds -->"


@dataclass(frozen=True)
class Claim:
    what: str
    against: str
    race: str  # a regular expression on a race's name, with {} for the direction
    rivals: tuple[str, ...]  # the fastest of these counts

    def worst(self, direction: str, machines: Sequence[Machine]) -> str:
        """The rival's time over ours, on the slowest machine; a range where there are several shapes."""
        found = list(self._ratios(direction, machines))
        if not found:
            return "-"
        low, high = short(min(found)), short(max(found))
        return low if low == high else f"{low} to {high}"

    def _ratios(self, direction: str, machines: Sequence[Machine]) -> Iterator[float]:
        pattern = re.compile(self.race.replace("{}", re.escape(direction)))
        for race in dict.fromkeys(race for machine in machines for race in machine.ratios if pattern.fullmatch(race)):
            fastest = [machine.fastest(race, self.rivals) for machine in machines]
            if present := [ratio for _, ratio in filter(None, fastest)]:
                yield min(present)


EAGER = ("eager", "compiled")
LARGE = r"cache_retrieval \| {} \| Q1000_C1000_K16_D512"
ALL = r"cache_retrieval \| {} \| Q.*"
CLAIMS = (
    Claim(
        "`cache_retrieval`, 1,000 queries, 1,000 classes x 16 shots, width 512",
        "released Tip-Adapter form",
        LARGE,
        ("released",),
    ),
    Claim("", "faster of eager and `torch.compile`", LARGE, EAGER),
    Claim("", "bare sgemm of the same products (three with backward)", LARGE, ("sgemm",)),
    Claim(
        "five shapes, from 256 queries and 100 classes to one query", "faster of eager and `torch.compile`", ALL, EAGER
    ),
    Claim(
        "the same in bfloat16", "faster of eager and `torch.compile`", r"cache_retrieval \| {}, bfloat16 \| Q.*", EAGER
    ),
    Claim(
        "`hetero_aggregate`, 100 to 21,000 classes, six relations",
        "`torch.sparse`",
        r"hetero_aggregate \| {}(, sources.*)? \| C.*",
        ("torch_sparse",),
    ),
    Claim("", "PyG `HeteroConv`", r"hetero_aggregate \| {}(, sources.*)? \| C.*", ("pyg",)),
    Claim(
        "`p_laplacian`, 40 x 40 to 617 x 617",
        "faster of eager and `torch.compile`",
        r"p_laplacian \| {} \| B[^d]*",
        EAGER,
    ),
    Claim("at 40 x 577", "released form", r"p_laplacian \| {} \| B2_40x577", ("released",)),
    Claim(
        "`p_laplacian_attention`, the same shapes",
        "`scaled_dot_product_attention`",
        r"p_laplacian_attention \| {} \| B[^d]*",
        ("sdpa",),
    ),
    Claim(
        "features of a whole head, 577 to 1,024 keys",
        "`scaled_dot_product_attention`",
        r"p_laplacian_attention \| {} \| B.*_d.*",
        ("sdpa",),
    ),
)


def short(ratio: float) -> str:
    return f"{ratio:.{0 if ratio >= 20 else 1 if ratio >= 2 else 2}f}"


def table(machines: Sequence[Machine]) -> Iterator[str]:
    yield "Times of the rival over ours, float32 unless said otherwise; of the processors measured the worst:"
    yield ""
    for machine in machines:
        yield f"- {machine.name} ({machine.facts['date']}, torch {machine.facts['versions']['torch']})"
    yield ""
    yield "| | against | forward | forward + backward |"
    yield "|---|---|---|---|"
    for claim in CLAIMS:
        cells = [claim.worst(direction, machines) for direction in ("forward", "forward + backward")]
        yield f"| {claim.what} | {claim.against} | {cells[0]} | {cells[1]} |"


def with_table(text: str, machines: Sequence[Machine]) -> str:
    """README's text with the table made anew.

    Raises ``ValueError`` where a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md lacks a marker: put {BEGIN!r} and {END!r} around the table.")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n" + "\n".join(table(machines)) + f"\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readme", type=Path)
    path = parser.parse_args().readme
    text = with_table(path.read_text(), kept())
    with atomic_path(path) as temporary:
        temporary.write_text(text)
    print(f"{path} written")


if __name__ == "__main__":
    main()
