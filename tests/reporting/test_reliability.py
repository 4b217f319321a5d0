"""The counts behind a reliability curve, and the picture of it."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from tests.experiments.test_results import results
from tests.reporting.test_pictures import pixels_of
from vlmadapt.experiments.measures import BINS, measure, reliability
from vlmadapt.reporting.reliability import BLUE, draw_reliability


def test_counts_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 4, generator=generator, dtype=torch.float64), torch.arange(200) % 4
    expected = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    for row, label in zip(logits.softmax(-1).tolist(), labels.tolist(), strict=True):
        place = next(number for number in range(BINS) if max(row) <= (number + 1) / BINS)
        expected[place][0] += 1
        expected[place][1] += max(row)
        expected[place][2] += row.index(max(row)) == label
    found = reliability(logits.log_softmax(-1), labels)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    tested = measure(logits, labels)
    assert tested.bins == found.tolist()
    gaps = sum(abs(certainty - right) for _, certainty, right in expected) / 200
    assert tested.values["calibration_error"] == pytest.approx(gaps)


def counted(bins):
    """Results of two seeds whose cells have these counts."""
    found = results({("a", 4): [0.5, 0.5], ("b", 4): [0.5, 0.5], ("a", 1): [0.5, 0.5]})
    cells = [replace(cell, reliability=bins, values={**cell.values, "calibration_error": 0.1}) for cell in found.cells]
    return replace(found, cells=tuple(cells))


def test_a_panel_a_method_at_the_most_shots(tmp_path):
    bins = [[0.0, 0.0, 0.0]] * (BINS - 2) + [[5.0, 4.5, 4.0], [10.0, 9.7, 10.0]]
    path = draw_reliability(counted(bins), tmp_path / "reliability.png")
    assert path is not None and Image.open(path).format == "PNG"
    two = Image.open(path).width
    assert pixels_of(path, BLUE) > 100
    one = replace(counted(bins), methods={"a": {}}, cells=tuple(c for c in counted(bins).cells if c.method == "a"))
    assert Image.open(draw_reliability(one, tmp_path / "one.png")).width < two  # type: ignore[arg-type]


def test_older_results_have_none(tmp_path):
    assert draw_reliability(results(), tmp_path / "reliability.png") is None
    assert not list(tmp_path.iterdir())
