from pathlib import Path

import numpy as np
import pytest

from vlmadapt.provenance.memory import MIB, PeakMemory


def test_a_large_array_raises_the_peak():
    with PeakMemory() as before:
        pass
    with PeakMemory() as peak:
        array = np.ones(200 * MIB, dtype=np.uint8)
        del array
    assert peak.mib > before.mib + 150


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the mark")
def test_an_earlier_peak_is_forgotten():
    with PeakMemory() as large:
        array = np.ones(200 * MIB, dtype=np.uint8)
        del array
    with PeakMemory() as small:
        pass
    assert small.mib < large.mib - 150
