"""What to use when, in sentences that are computed from results of several sets."""

from __future__ import annotations

from collections.abc import Sequence

from vlmadapt.experiments.overview import Overall, Overview
from vlmadapt.reporting.table import Table

AUTO, FLOORS = "auto", ("zero-shot", "tip-adapter-f")
CLOSE = 0.01  # of accuracy: what a faster method may be behind the best


def advice(overview: Overview) -> list[str]:
    """Bullets of Markdown: what is best at few and many shots, at what cost, and what ``auto`` is worth."""
    lines = [_by_shots(overview, shots) for shots in _regimes(overview.shots)]
    if AUTO in overview.methods and len(overview.methods) > 1:
        lines += [_of_auto(overview)]
    lines += _fast(overview) + _calibrated(overview)
    if overview.left_out:
        lines.append(f"Not on every set, and not counted here: {_listed(overview.left_out)}.")
    return [f"- {line}" for line in lines]


def _regimes(shots: Sequence[int]) -> list[tuple[int, ...]]:
    """One or two pictures a class, some, many."""
    parts = ([n for n in shots if n <= 2], [n for n in shots if 2 < n <= 8], [n for n in shots if n > 8])
    return [tuple(part) for part in parts if part]


def _by_shots(overview: Overview, shots: Sequence[int]) -> str:
    best, level = overview.best(shots)
    said = f"At {_shots(shots)}: {_with_accuracy(overview, best, shots)}{_level(level)}."
    single, alike = overview.best(shots, overview.singles)
    if single != best:
        said += f" Of the methods that do not train on validation pictures: {_with_accuracy(overview, single, shots)}"
        said += f"{_level(alike)}."
    return said


def _with_accuracy(overview: Overview, method: str, shots: Sequence[int]) -> str:
    return f"`{method}` has the highest mean accuracy, {100 * overview.accuracy(method, shots):.1f} %"


def _level(methods: Sequence[str]) -> str:
    return f"; not told apart from it: {_listed(methods)}" if methods else ", and all others are behind it"


def _of_auto(overview: Overview) -> str:
    best = max(overview.singles, key=overview.accuracy)
    found = overview.against(AUTO, best)
    said = [f"Over all, `{AUTO}` is {_points(found)} of `{best}`, the best single method in hindsight"]
    for floor in FLOORS:
        if floor in overview.methods:
            found = overview.against(AUTO, floor)
            below = f"in {found.worse} of {found.cells} cells below it beyond chance"
            said.append(
                f"{_points(found)} of `{floor}` ({below})" if found.interval else f"{_points(found)} of `{floor}`"
            )
    return "; ".join(said) + ". It trains on the validation pictures too, which the others only choose by."


def _points(found: Overall) -> str:
    interval = found.interval
    where = "" if interval is None else f" [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    return f"{100 * abs(found.mean):.1f} points {'ahead' if found.mean >= 0 else 'behind'}{where}"


def _fast(overview: Overview) -> list[str]:
    every = _fastest(overview, overview.methods)
    single = _fastest(overview, overview.singles)
    more = "" if single == every else f"; of the methods that do not train on validation pictures it is {single}"
    return [f"Cost: the fastest within {100 * CLOSE:.0f} point of the highest mean over all is {every}{more}."]


def _fastest(overview: Overview, methods: Sequence[str]) -> str:
    standings = [standing for standing in overview.standings() if standing.method in methods]
    most = max(standing.accuracy for standing in standings)
    close = [standing for standing in standings if standing.accuracy >= most - CLOSE]
    found = min(close, key=lambda standing: standing.fit_seconds)
    return (
        f"`{found.method}`, {found.fit_seconds:.2g} s a fit at the most shots (median over the sets; the largest "
        f"{found.most_seconds:.2g} s)"
    )


def _calibrated(overview: Overview) -> list[str]:
    errors = {name: overview.calibration_error(name) for name in overview.methods}
    known = {name: value for name, value in errors.items() if value is not None}
    if not known:
        return []
    best = min(known, key=known.__getitem__)
    return [f"Probabilities: `{best}` has the smallest calibration error at the most shots, {100 * known[best]:.1f} %."]


def standings_table(overview: Overview) -> Table:
    """A row a method, best rank first: rank, accuracy, calibration and cost."""
    reference = next((name for name in FLOORS[::-1] if name in overview.methods), overview.methods[0])
    rows = []
    for standing in overview.standings():
        spread = "" if standing.spread is None else f" ± {standing.spread:.1f}"
        gain = "-" if standing.method == reference else _gain(overview.against(standing.method, reference))
        error = overview.calibration_error(standing.method)
        rows.append(
            [
                standing.method,
                f"{standing.rank:.1f}{spread}",
                f"{100 * standing.accuracy:.1f}",
                gain,
                "-" if error is None else f"{100 * error:.1f}",
                f"{standing.fit_seconds:.2f}",
                f"{standing.most_seconds:.2f}",
            ]
        )
    header = ["method", "mean rank", "accuracy", f"over {reference}", "calibration error", "fit s", "largest fit s"]
    return Table("", header, rows)


def _gain(found: Overall) -> str:
    interval = found.interval
    where = "" if interval is None else f" [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    return f"{100 * found.mean:+.1f}{where}"


def _shots(shots: Sequence[int]) -> str:
    return f"{_listed([str(n) for n in shots], code=False)} shot{'s' * (tuple(shots) != (1,))}"


def _listed(names: Sequence[str], code: bool = True) -> str:
    shown = [f"`{name}`" if code else name for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
