"""``vlmadapt doctor``."""

from __future__ import annotations

import typer

from vlmadapt.cli.console import fail, say

SIGNS = {"ok": ("  ok ", "green"), "missing": ("  -- ", "yellow"), "broken": ("  !! ", "red")}


def doctor() -> None:
    """Say what is installed and working, and the command for what is not.

    Exit code 0 unless the compiled CPU operators are missing or a package that is there fails; optional parts may be
    absent. Takes some seconds: every optional package is imported.
    """
    from vlmadapt.doctor import examine, healthy

    findings = examine()
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            say(topic, "bold")
        sign, style = SIGNS[finding.state]
        say(sign + finding.text, style if finding.state != "ok" else None)
        if finding.fix:
            say(f"       {finding.fix}")
    if not healthy(findings):
        fail("vlmadapt cannot work like this: run the commands under the lines marked !!.")
        raise typer.Exit(1)
