"""Whatever the encoding, width or fate of the streams: all is printed that can be, and the files are complete."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.experiments.world import TIP, make_world
from tests.test_cli import call, fit_tip_f
from vlmadapt.cli import app, console
from vlmadapt.reporting.table import Table, show

COMPARE = ("--adapters", f"zero-shot,{TIP}", "--shots", "1", "--seeds", "2")
FILES = ["curve.png", "differences.csv", "reliability.png", "report.html", "results.csv", "results.json", "table.md"]


class Lettered(CliRunner):
    """Streams of another encoding than UTF-8."""

    def __init__(self, charset):
        super().__init__(charset=charset)


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_a_table_is_printed_in_any_encoding_and_the_files_are_the_same(charset, tmp_path):
    world = make_world(tmp_path / "wörld 果")
    arguments = ["compare", str(world), *COMPARE, "--out", str(tmp_path / charset)]
    result = Lettered(charset).invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    sign = "±" if charset != "ascii" else "+-"
    assert f" {sign} " in result.stdout and "| zero-shot" in result.stdout and "results: " in result.stdout
    assert "果" in result.stdout if charset == "utf-8" else "\\u679c" in result.stdout
    assert sorted(path.name for path in (tmp_path / charset).glob("[!.]*")) == FILES
    assert "±" in (tmp_path / charset / "table.md").read_text(encoding="utf-8")
    assert (
        json.loads((tmp_path / charset / "results.json").read_text(encoding="utf-8"))["dataset"]["name"] == "wörld 果"
    )


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_json_stays_json(charset, world, tmp_path):
    fit_tip_f(world, tmp_path / "run")
    picture = tmp_path / "é 果.png"
    picture.write_bytes((world / "test" / "sun" / "0.png").read_bytes())
    result = Lettered(charset).invoke(app, ["predict", str(tmp_path / "run"), str(picture), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)[0]["picture"] == str(picture)


def test_a_name_that_is_no_text_is_shown_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=console.REPLACED)
    print("caf\udce9.png ±", file=stream, flush=True)
    assert stream.buffer.getvalue() == "caf\\udce9.png ±\n".encode()


RUN = """
import sys
from tests.experiments.world import ColourEncoder
from vlmadapt import backbones, cli
backbones.load_encoder = lambda name, **options: ColourEncoder()
cli.main()
"""


def in_a_process(*arguments, **options):
    return subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)], cwd=Path(__file__).parents[2], **options)


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_goes_away_costs_no_file_and_gets_no_traceback(buffered, world, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment["PYTHONUNBUFFERED"] = "" if buffered else "1"
    process = in_a_process(
        "compare",
        world,
        *COMPARE,
        "--out",
        tmp_path / "out",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 141
    assert "Traceback" not in errors and "Broken" not in errors
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == FILES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("buffered", [True, False])
def test_an_output_that_a_full_disk_takes_costs_one_sentence(buffered, world, tmp_path):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "wb") as full:
        process = in_a_process(
            "compare", world, *COMPARE, "--out", tmp_path / "out", stdout=full, stderr=subprocess.PIPE, env=environment
        )
        assert process.stderr is not None
        last = process.stderr.read().decode().splitlines()[-1]
        process.stderr.close()
        assert process.wait() == 2
    reason = os.strerror(errno.ENOSPC)
    assert last == f"could not write standard output: {reason}: make room or send it elsewhere."
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == FILES


@pytest.mark.parametrize("buffered", [True, False])
def test_a_short_output_into_a_closed_pipe_ends_quietly(buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    process = in_a_process("--version", stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_is_not_there_takes_nothing(closed, world, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, closed, None)
    other = io.StringIO()
    monkeypatch.setattr(sys, {"stdout": "stderr", "stderr": "stdout"}[closed], other)
    for say in (console.say, console.note, console.warn, console.fail):
        say("a line")
    console.prepare_streams()
    assert other.getvalue().count("a line") == (3 if closed == "stdout" else 1)


@pytest.mark.parametrize("width", [8, 20, 40, 200])
@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_table_on_a_narrow_terminal_loses_no_figure(width, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    table = Table(
        "A title", ["method", "1 shot", "trained"], [["tip-adapter", "39.3 ± 5.0", "212,992"]], divisible=True
    )
    show(table, Console(file=stream, force_terminal=True, width=width))
    text = stream.getvalue()
    if environment:
        assert "\x1b[3" not in text  # no colour
    assert "39.3 ± 5.0" in text and "212,992" in text


def test_results_are_written_before_they_are_printed(world, tmp_path, monkeypatch):
    from vlmadapt.reporting import table

    fit_tip_f(world, tmp_path / "run")

    def gone(*_args):
        raise BrokenPipeError

    monkeypatch.setattr(table, "show", gone)
    call("eval", tmp_path / "run", "--out", tmp_path / "eval", code=141)
    assert (tmp_path / "eval" / "by_class.csv").is_file()
    call("compare", world, *COMPARE, "--out", tmp_path / "compare", code=141)
    assert sorted(path.name for path in (tmp_path / "compare").glob("[!.]*")) == FILES
