"""The curve and the evidence picture: written whole, and showing what they should."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from tests.experiments.test_results import results
from vlmadapt.errors import FileError
from vlmadapt.reporting.curves import COLOURS, draw_curves
from vlmadapt.reporting.evidence import AGREES, DISAGREES, Witness, draw_evidence


def pixels_of(path, colour: str) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - ImageColor.getrgb(colour)).sum(-1) < 12).sum())


def many_results(methods: int):
    names = ["zero-shot", *(f"method-{number}" for number in range(methods))]
    return results(
        {(name, shots): [0.2 + 0.1 * i, 0.25 + 0.1 * i] for i, name in enumerate(names) for shots in (1, 2, 4)}
    )


def test_every_method_has_a_line_of_its_own_colour(tmp_path):
    path = draw_curves(many_results(3), tmp_path / "curve.png")
    assert Image.open(path).format == "PNG"
    assert all(pixels_of(path, colour) > 500 for colour in COLOURS[:3])
    assert pixels_of(path, COLOURS[3]) < 50
    assert pixels_of(path, "#737373") > 300  # zero-shot, dashed grey


def test_the_legend_stands_beside_the_lines(tmp_path):
    """Right of the axes' end there are only legend entries; its handles do not reach back into the axes."""
    path = draw_curves(many_results(3), tmp_path / "curve.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found = np.abs(pixels - ImageColor.getrgb(COLOURS[0])).sum(-1) < 12
    columns = np.flatnonzero(found.any(0))
    assert np.diff(columns).max() > 15  # a gap between the line's end and its handle


@pytest.mark.parametrize("accuracy", [{("zero-shot", 4): [0.3]}, {("tip-adapter", 16): [0.3]}])
def test_one_point_can_be_drawn(tmp_path, accuracy):
    assert draw_curves(results(accuracy), tmp_path / "curve.png").stat().st_size > 5000


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        draw_curves(results(), tmp_path / "file" / "curve.png")


def test_evidence_frames_tell_agreeing_from_disagreeing_pictures(tmp_path):
    grey = Image.new("RGB", (30, 60), "#888888")
    agreeing = Witness(grey, "bird", 0.4, True)
    both = [agreeing, Witness(grey, "cost $5 果物", 0.2, False), Witness(None, "gone", 0.1, False)]
    one = draw_evidence(grey, "bird", "81 %", [agreeing], tmp_path / "one.png")
    three = draw_evidence(grey, "bird", "81 %", both, tmp_path / "three.png")
    assert pixels_of(one, AGREES) > 2000
    assert pixels_of(three, DISAGREES) > pixels_of(one, DISAGREES) + 2000
    assert pixels_of(three, "#ededed") > 5000  # the frame of the picture that is gone


def test_evidence_grows_with_rows(tmp_path):
    grey = Image.new("RGB", (60, 30), "#888888")
    few = draw_evidence(grey, "bird", "", [Witness(grey, "bird", 0.1, True)] * 3, tmp_path / "few.png")
    many = draw_evidence(grey, "bird", "", [Witness(grey, "bird", 0.1, True)] * 12, tmp_path / "many.png")
    assert Image.open(many).height > 1.5 * Image.open(few).height
