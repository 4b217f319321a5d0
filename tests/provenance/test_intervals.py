from __future__ import annotations

import pytest

from vlmadapt.provenance.intervals import wilson


# By hand from the formula, and as published: 0 of 10 and 1 of 10 in Brown, Cai and DasGupta 2001's terms.
@pytest.mark.parametrize(
    ("right", "number", "low", "high"),
    [(0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_the_interval_of_a_share(right, number, low, high):
    assert wilson(right / number, number) == pytest.approx((low, high), abs=1e-4)


def test_it_holds_the_share_and_narrows_with_the_number():
    for number in (1, 3, 17, 1155, 10**6):
        for share in (0.0, 1 / number, 1 / 3, 1.0):
            low, high = wilson(share, number)
            assert 0 <= low <= share <= high <= 1
    assert wilson(0.5, 0) == (0.0, 1.0)
    assert str(wilson(0.5, 10)) == "[23.7, 76.3]"
