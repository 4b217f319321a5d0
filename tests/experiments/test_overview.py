from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.experiments.test_results import results
from vlmadapt.experiments.estimate import Timed, described, ends, seconds
from vlmadapt.experiments.overview import Overview
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.rights import pack
from vlmadapt.reporting.advice import advice, standings_table
from vlmadapt.reporting.overview_picture import draw_cost, draw_ranks

PICTURES = 200
SHARES = {"zero-shot": 0.5, "tip-adapter-f": 0.7, "gda": 0.705, "auto": 0.9}


def made(
    shares: dict[str, float], shots: tuple[int, ...] = (1, 16), seeds: int = 3, kept: bool = True
) -> ProtocolResults:
    """Results in which every method is right on the first pictures of each seed, as many as its share."""
    accuracy = {(name, count): [share] * seeds for name, share in shares.items() for count in shots}
    one = results(accuracy)
    cells = []
    for cell in one.cells:
        right = torch.arange(PICTURES) < round(shares[cell.method] * PICTURES)
        values = {"accuracy": float(right.double().mean()), "calibration_error": 0.1 * shares[cell.method]}
        cells.append(replace(cell, values=values, right=pack(right) if kept else None, shots=cell.shots))
    return replace(one, dataset={**one.dataset, "test": PICTURES}, cells=tuple(cells))


@pytest.fixture
def overview() -> Overview:
    return Overview({"one": made(SHARES), "two": made({**SHARES, "coop": 0.3, "gda": 0.7})})


def test_ranks_are_means_over_sets_and_ties_share_their_place(overview):
    found = {standing.method: standing for standing in overview.standings()}
    assert list(found) == ["auto", "gda", "tip-adapter-f", "zero-shot"] and overview.left_out == ["coop"]
    assert found["auto"].rank == 1 and found["zero-shot"].rank == 4 and found["zero-shot"].spread == 0
    assert found["gda"].by_set == {"one": 2.0, "two": 2.5} and found["gda"].rank == 2.25
    assert found["gda"].accuracy == pytest.approx((0.705 + 0.7) / 2)


def test_differences_over_sets_are_paired(overview):
    found = overview.against("auto", "tip-adapter-f")
    assert found.mean == pytest.approx(0.2) and found.cells == 4 and found.worse == 0
    assert found.interval is not None and found.interval.low > 0.1 and found.interval.high < 0.3
    back = overview.against("tip-adapter-f", "auto")
    assert back.mean == pytest.approx(-0.2) and back.worse == 4
    assert Overview({"old": made(SHARES, kept=False)}).against("auto", "gda").interval is None


def test_what_is_not_told_apart_from_the_best_is_named(overview):
    assert overview.best((1, 16)) == ("auto", [])
    assert overview.singles == ["zero-shot", "tip-adapter-f", "gda"]
    assert overview.best((16,), overview.singles) == ("gda", ["tip-adapter-f"])


def test_the_advice_follows_the_numbers(overview):
    said = "\n".join(advice(overview))
    assert "- At 1 shot: `auto` has the highest mean accuracy, 90.0 %, and all others are behind it." in said
    assert "Of the methods that do not train on validation pictures: `gda`" in said
    assert "`auto` is 19.8 points ahead" in said and "of `gda`, the best single method in hindsight" in said
    assert "(in 0 of 4 cells below it beyond chance)" in said
    assert "Not on every set, and not counted here: `coop`." in said
    assert "`zero-shot` has the smallest calibration error" in said
    turned = "\n".join(advice(Overview({"one": made({**SHARES, "auto": 0.2})})))
    assert "`gda` has the highest mean accuracy" in turned and "(in 2 of 2 cells below it beyond chance)" in turned


def test_the_table_and_figures_have_every_method(overview, tmp_path):
    table = standings_table(overview)
    assert [row[0] for row in table.rows] == ["auto", "gda", "tip-adapter-f", "zero-shot"]
    assert (
        table.header[3] == "over tip-adapter-f" and table.rows[2][3] == "-" and table.rows[0][3].startswith("+20.0 [")
    )
    for draw in (draw_ranks, draw_cost):
        path = draw(overview.standings(), tmp_path / "figure.png")
        first = path.read_bytes()
        assert first.startswith(b"\x89PNG") and draw(overview.standings(), path).read_bytes() == first


def test_hours_are_those_of_the_line_between_the_ends():
    assert ends((1, 2, 4, 8, 16)) == (1, 16) and ends((4,)) == (4,)
    assert seconds(Timed(1.0, 4.0), (1, 2, 4), 5) == pytest.approx(5 * (1 + 2 + 4))
    assert seconds(Timed(2.0, 2.0), (4,), 3) == 6
    line, hours = described("clipart", {"auto": Timed(3600.0, 3600.0), "gda": Timed(0.0, 0.0)}, (1, 16), 2)
    assert hours == 4 and line == "clipart: 4.00 h of fits (auto 4.00, gda 0.00)"
