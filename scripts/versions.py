"""The versions of what vlmadapt reaches into, as a row of the table in docs/compatibility.md."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform

from vlmadapt.doors import PROVEN


def main() -> None:
    versions = [importlib.metadata.version(library) for library in PROVEN]
    cells = [datetime.date.today().isoformat(), platform.python_version(), *versions]
    print(f"| {' | '.join(['date', 'Python', *PROVEN])} |")
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
