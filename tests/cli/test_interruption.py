"""Ctrl-C, SIGTERM and SIGHUP: the checkpoint stays, the hint is true, the exit code names the signal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.experiments.world import TIP, ColourEncoder
from tests.test_cli import call, fit_tip_f
from vlmadapt.cli.interruption import SIGNALS, ending_softly
from vlmadapt.files import read_tensors
from vlmadapt.training.checkpoint import Checkpoint

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
COMPARE = ("--adapters", f"zero-shot,{TIP}", "--shots", "1", "--seeds", "1")


def strike(name):
    """The signal, to this process; its handler runs before the next line."""
    os.kill(os.getpid(), getattr(signal, name))
    signal.getsignal(signal.SIGINT)


@pytest.fixture(autouse=True)
def usual_handlers():
    """Those of a shell's foreground: what runs these tests may ignore signals, as nohup does, and so would they."""
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(SIGNALS, signal.SIG_DFL)}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)]


@pytest.mark.parametrize("name", CODES)
def test_an_interrupted_fit_goes_on_by_its_hint(name, world, tmp_path, monkeypatch):
    before = handlers()
    fit_tip_f(world, tmp_path / "whole")
    save, saves = Checkpoint.save, []

    def struck_save(checkpoint, path):
        save(checkpoint, path)
        saves.append(path)
        if len(saves) == 2:
            strike(name)

    monkeypatch.setattr("vlmadapt.training.loop.CHECKPOINT_SECONDS", 0.0)  # after every epoch
    monkeypatch.setattr(Checkpoint, "save", struck_save)
    result = fit_tip_f(world, tmp_path / "parts", code=CODES[name])
    assert handlers() == before
    assert result.stdout == ""
    hint = result.stderr.splitlines()[-1]
    assert hint.startswith("Interrupted. To go on where it stopped: vlmadapt fit ") and hint.endswith("--resume")
    assert (tmp_path / "parts" / "checkpoints" / "tip-adapter-f.safetensors").is_file()
    assert "pass --resume" in fit_tip_f(world, tmp_path / "parts", code=2).stderr
    assert "another seed" in fit_tip_f(world, tmp_path / "parts", "--seed", 1, "--resume", code=2).stderr
    call(*shlex.split(hint.partition("vlmadapt ")[2]))
    assert len(saves) == 4  # two epochs before, two after
    whole, parts = (read_tensors(tmp_path / name / "adapter.safetensors")[0] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(bool((whole[name] == parts[name]).all()) for name in whole)
    assert not (tmp_path / "parts" / "checkpoints").exists()


def struck_when_encoding(monkeypatch, name, after=0):
    encode, calls = ColourEncoder.encode_images, []

    def struck(encoder, pixels, normalize=True):
        calls.append(1)
        if len(calls) == after + 1:
            strike(name)
        return encode(encoder, pixels, normalize)

    monkeypatch.setattr(ColourEncoder, "encode_images", struck)


@pytest.mark.parametrize("name", CODES)
def test_features_without_a_cache_do_not_go_on(name, world, monkeypatch):
    struck_when_encoding(monkeypatch, name)
    assert call("features", world, "--no-cache", code=CODES[name]).stderr.splitlines()[-1] == "Interrupted."


def test_features_with_a_cache_go_on(world, monkeypatch):
    struck_when_encoding(monkeypatch, "SIGTERM", after=1)
    hint = call("features", world, "--batch-size", "4", code=143).stderr.splitlines()[-1]
    assert hint == f"Interrupted. To go on where it stopped: vlmadapt features {world} --batch-size 4"
    encoder = ColourEncoder()
    monkeypatch.setattr("vlmadapt.backbones.load_encoder", lambda name, **_options: encoder)
    call(*shlex.split(hint.partition("vlmadapt ")[2]))
    assert encoder.pictures_encoded == 48 - 4  # of all pictures those of one batch were kept


def test_a_comparison_without_a_cache_says_what_is_not_kept(world, tmp_path, monkeypatch):
    struck_when_encoding(monkeypatch, "SIGTERM")
    arguments = ("compare", str(world), *COMPARE, "--no-cache", "--out", str(tmp_path / "out"))
    hint = call(*arguments, code=143).stderr.splitlines()[-1]
    assert "features are computed again" in hint and hint.endswith(shlex.join(arguments))


def test_commands_that_leave_nothing_say_nothing_more(world, tmp_path, monkeypatch):
    fit_tip_f(world, tmp_path / "run")
    struck_when_encoding(monkeypatch, "SIGTERM")
    result = call("predict", tmp_path / "run", world / "test" / "sun" / "0.png", code=143)
    assert result.stderr.splitlines()[-1] == "Interrupted."


def test_replacing_is_resumed_only_once_it_has_begun(world, tmp_path, monkeypatch):
    """Before it, the old fit is still the one there, and --resume would be refused."""
    fit_tip_f(world, tmp_path / "run")

    def struck(name, **_options):
        strike("SIGTERM")

    again = ("--seed", "1", "--overwrite")
    with monkeypatch.context() as patch:
        patch.setattr("vlmadapt.backbones.load_encoder", struck)
        assert fit_tip_f(world, tmp_path / "run", *again, code=143).stderr.splitlines()[-1].endswith("--overwrite")
    with monkeypatch.context() as patch:
        struck_when_encoding(patch, "SIGTERM")
        hint = fit_tip_f(world, tmp_path / "run", *again, code=143).stderr.splitlines()[-1]
    assert hint.endswith("--resume") and "--overwrite" not in hint
    call(*shlex.split(hint.partition("vlmadapt ")[2]))


SECOND = """
import os, signal, sys, time
from vlmadapt.cli.interruption import Terminated, ending_softly
number = getattr(signal, sys.argv[1])
signal.signal(number, signal.SIG_DFL)
with ending_softly():
    try:
        os.kill(os.getpid(), number)
        time.sleep(60)
    except Terminated as stop:
        assert stop.number == number
        print("put away", flush=True)
        os.kill(os.getpid(), number)
        time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_second_signal_ends_the_process(name):
    done = subprocess.run([sys.executable, "-c", SECOND, name], capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout == "put away\n" and done.returncode == -getattr(signal, name)


def test_other_handlers_and_other_threads_are_left_alone():
    before, seen = handlers(), []

    def other():
        with ending_softly():
            seen.append(handlers())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [before]
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ending_softly():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, ignored)
