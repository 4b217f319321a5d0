"""Who may write into a folder, and what is left there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmadapt import atomic, locks
from vlmadapt.atomic import atomic_folder, atomic_path, remove_file, remove_leftovers
from vlmadapt.errors import FileError, InputError, VlmadaptError
from vlmadapt.files import read_json, write_json
from vlmadapt.provenance.about import ABOUT, About, about_of
from vlmadapt.provenance.place import LOCK, hold, hold_file, make_once

PETS = About("compare", "pets", "a" * 64, "b" * 64, "c" * 64, {"views": 1, "templates": ["a {}"]})
HOLDER = """
import sys, time
from vlmadapt.provenance.place import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds tmp_path/run until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def inner(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# One run at a time.


def test_another_process_is_refused_in_one_sentence_that_names_it(tmp_path: Path, holder) -> None:
    with pytest.raises(InputError, match="--out") as refused, hold(tmp_path / "run"):
        pytest.fail("held twice")
    sentence = str(refused.value)
    assert str(tmp_path / "run") in sentence and f"process {holder.pid}" in sentence and "wait" in sentence
    assert "\n" not in sentence


def test_the_folder_of_a_killed_process_is_free_and_its_lock_goes_with_the_next_run(tmp_path: Path, holder) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert inner(tmp_path / "run") == [LOCK]
    with hold(tmp_path / "run") as place:
        assert place.is_empty()
        (tmp_path / "run" / "results.json").touch()
    assert inner(tmp_path / "run") == ["results.json"]


def test_another_thread_is_refused_and_the_same_one_is_not(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def other() -> None:
        try:
            with hold(tmp_path / "run"):
                pass
        except InputError as error:
            caught.append(error)

    with hold(tmp_path / "run") as outer:
        with hold(tmp_path / "x" / ".." / "run") as same:
            assert same is outer
        assert (tmp_path / "run" / LOCK).exists()  # the inner block has not released it
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another call in this process" in str(caught[0])
    with hold(tmp_path / "run"):
        pass


def test_a_link_to_a_held_folder_is_refused(tmp_path: Path, holder) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(InputError, match="being written"), hold(tmp_path / "link"):
        pass


def enter_and_count(folder: str, rounds: int, failures) -> None:
    """Each round that is let in must find itself alone."""
    for _ in range(rounds):
        try:
            with hold(folder):
                alone = Path(folder) / "alone"
                os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
                time.sleep(0.001)
                alone.unlink()
        except InputError:
            time.sleep(0.0005)
        except BaseException as error:
            failures.put(repr(error))
            return


def test_processes_that_come_and_go_never_meet(tmp_path: Path) -> None:
    """The lock file and the folder are removed each time: nobody may hold a file that is no longer there."""
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [
        context.Process(target=enter_and_count, args=(str(tmp_path / "a" / "run"), 60, failures)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert failures.empty(), failures.get()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_goes_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch) -> None:
    """mkdir finds it there, then asks whether it is a folder: in between another run may have removed it."""
    made, original = [], Path.mkdir

    def mkdir(path: Path, *more, **options) -> None:
        made.append(path)
        if len(made) < 3:
            raise FileExistsError(17, "File exists", str(path))
        original(path, *more, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with hold(tmp_path / "run"):
        assert len(made) == 3
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"), hold(tmp_path / "file"):
        pass


def test_without_locks_there_is_a_warning_and_the_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(locks, "try_lock", lambda handle: None)
    with pytest.warns(UserWarning, match="file system without locks"), hold(tmp_path / "run"):
        (tmp_path / "run" / "results.json").touch()
    assert inner(tmp_path / "run") == ["results.json"]


def test_a_file_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    with hold_file(tmp_path / "new" / "f.safetensors"):
        with (
            pytest.raises(InputError, match=r"f\.safetensors is being written"),
            hold_file(tmp_path / "new" / "f.safetensors"),
        ):
            pass
        with hold_file(tmp_path / "new" / "g.safetensors"):
            pass
    assert inner(tmp_path) == []
    with pytest.raises(FileError, match="name a file"), hold_file(tmp_path):
        pass


# What all runs share.


def make_slowly(path: str, begun, seconds: float) -> None:
    def make() -> None:
        begun.put(os.getpid())
        time.sleep(seconds)
        write_json(path, {"by": os.getpid()})

    make_once(Path(path), Path(path).is_file, make)


def test_of_two_first_runs_one_makes_what_both_share_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, shared = context.Queue(), tmp_path / "cache" / "shared.json"
    workers = [context.Process(target=make_slowly, args=(str(shared), begun, 1.0)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert read_json(shared) == {"by": begun.get(timeout=10)} and begun.empty()
    assert inner(shared.parent) == ["shared.json"]


def test_what_a_killed_run_did_not_finish_is_made_by_one_that_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, shared = context.Queue(), tmp_path / "cache" / "shared.json"
    killed = context.Process(target=make_slowly, args=(str(shared), begun, 60.0))
    killed.start()
    assert begun.get(timeout=60) == killed.pid
    waits = context.Process(target=make_slowly, args=(str(shared), begun, 0.0))
    waits.start()
    time.sleep(1.0)
    assert begun.empty()
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    waits.join(60)
    assert waits.exitcode == 0 and read_json(shared) == {"by": waits.pid}
    assert inner(shared.parent) == ["shared.json"]


# Writable, before the work.


def a_file_in_the_way(folder: Path, monkeypatch) -> Path:
    (folder / "file").touch()
    return folder / "file" / "run"


def a_file_itself(folder: Path, monkeypatch) -> Path:
    (folder / "file").touch()
    return folder / "file"


def too_long(folder: Path, monkeypatch) -> Path:
    return folder / ("x" * 300)


def full(folder: Path, monkeypatch) -> Path:
    monkeypatch.setattr(os, "fsync", raising(errno.ENOSPC))
    return folder / "run"


def read_only(folder: Path, monkeypatch) -> Path:
    monkeypatch.setattr(os, "open", raising(errno.EROFS))
    return folder / "run"


def raising(number: int) -> Callable[..., None]:
    def fail(*_args, **_options) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("obstacle", [a_file_in_the_way, a_file_itself, too_long, full, read_only])
@pytest.mark.parametrize("kind", [hold, hold_file])
def test_what_cannot_be_written_is_refused_before_the_work(obstacle, kind, tmp_path: Path, monkeypatch) -> None:
    place = obstacle(tmp_path, monkeypatch)
    before = inner(tmp_path)
    if kind is hold_file:
        place = place / "f.safetensors"
    with pytest.raises(FileError) as refused, kind(place):
        pytest.fail("the work began")
    sentence = str(refused.value)
    assert str(place) in sentence and "--out" in sentence and "\n" not in sentence
    monkeypatch.undo()
    assert inner(tmp_path) == before


# What a folder is of.

OTHERS = {
    "kind": (About("demo", "pets", "a" * 64), "not a demo"),
    "data": (About("compare", "dogs", "d" * 64), "'pets', not of 'dogs'"),
    "splits": (About("compare", "pets", "d" * 64, "b" * 64), "other pictures or splits"),
    "pictures": (About("compare", "pets", "a" * 64, "d" * 64), "other pictures or splits"),
    "encoder": (About("compare", "pets", "a" * 64, "b" * 64, "d" * 64), "another encoder"),
    "settings": (About("compare", "pets", settings={"views": 4}), "views was 1, is 4"),
    "templates": (About("compare", "pets", settings={"templates": ("the {}",)}), "templates was"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_folder_of_another_run_is_refused_and_stays_as_it_is(case: str, tmp_path: Path) -> None:
    other, named = OTHERS[case]
    with hold(tmp_path) as place:
        assert place.claim(PETS) is None
        place.begin(PETS)
        (tmp_path / "results.json").touch()
    with hold(tmp_path) as place:
        with pytest.raises(InputError, match=re.escape(named)) as refused:
            place.claim(other)
        assert str(tmp_path) in str(refused.value) and "--out" in str(refused.value)
        if case == "kind":
            with pytest.raises(InputError, match="not a demo"):
                place.claim(other, overwrite=True)
        else:
            assert place.claim(other, overwrite=True) == PETS
        assert not place.begun
    assert about_of(tmp_path) == PETS and inner(tmp_path) == [ABOUT, "results.json"]


def test_the_same_run_goes_on_and_what_is_not_known_yet_agrees(tmp_path: Path) -> None:
    with hold(tmp_path) as place:
        place.begin(PETS)
        (tmp_path / "results.json").touch()
        for same in (PETS, About("compare", "pets"), About("compare"), About("compare", settings={"views": 1})):
            assert place.claim(same) == PETS


def test_a_folder_that_holds_only_what_a_run_is_of_is_of_nothing(tmp_path: Path) -> None:
    with hold(tmp_path / "run") as place:
        place.begin(PETS)
    assert inner(tmp_path) == []
    tmp_path.joinpath("run").mkdir()
    PETS.write(tmp_path / "run")  # of a process that was killed there
    with hold(tmp_path / "run") as place:
        assert place.claim(OTHERS["data"][0]) is None


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"mine": 1})
    with hold(tmp_path) as place:
        with pytest.raises(InputError, match=r"holds a results\.json that no run wrote"):
            place.claim(PETS, overwrite=True, writes=["results.csv", "results.json"])
        assert place.claim(PETS, writes=["results.csv"]) is None


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / ABOUT, {"format": 2})
    (tmp_path / "x").touch()
    with hold(tmp_path) as place, pytest.raises(VlmadaptError, match="format 2"):
        place.claim(PETS)


# Leftovers.


def killed_while_writing(path: Path) -> None:
    process = os.fork()
    if process == 0:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)


@pytest.mark.parametrize("name", ["unfinished.json", "results.json", "x" * 200 + ".png", "ü果.safetensors"])
def test_what_a_killed_writer_leaves_is_removed_by_the_next_run(name: str, tmp_path: Path) -> None:
    inner_fit = tmp_path / "fits" / "tip" / "shots-1-seed-0"
    inner_fit.mkdir(parents=True)
    for folder in (tmp_path, inner_fit):
        killed_while_writing(folder / name)
        assert len(list(folder.glob(".*.vlmadapt.tmp/*"))) == 2  # what was written, and the lock
    (tmp_path / ".vlmadapt.lock").touch()
    with hold(tmp_path) as place:
        place.claim(PETS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_with_only_leftovers_counts_as_empty(tmp_path: Path) -> None:
    killed_while_writing(tmp_path / "unfinished.json")
    (tmp_path / ".unfinished.json.k3_9abzq.tmp").touch()  # as 0.1.0 called them
    (tmp_path / ".DS_Store").touch()
    with hold(tmp_path) as place:
        assert place.is_empty()
        place.claim(PETS)
        assert inner(tmp_path) == [".DS_Store", LOCK]
        (tmp_path / "notes.txt").touch()
        assert not place.is_empty()


def test_a_file_that_is_being_written_stays(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "results.json") as temporary:
        temporary.write_text("whole")
        remove_leftovers(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "results.json").read_text() == "whole" and inner(tmp_path) == ["results.json"]


@pytest.mark.parametrize("name", [".notes.abcdefgh.tmp", "x.vlmadapt.tmp", ".results.json.tmp", "results.json.bak"])
def test_only_files_of_ours_are_removed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert inner(tmp_path) == [name]


def test_a_link_called_like_a_leftover_stays_with_what_it_leads_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in (".lock", "work"):
        (mine / name).touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".results.json.12345678.vlmadapt.tmp").symlink_to(mine, target_is_directory=True)
    remove_leftovers(tmp_path / "run")
    assert len(inner(tmp_path / "run")) == 1 and inner(mine) == [".lock", "work"]


def test_what_could_not_be_removed_while_a_folder_was_filled_does_not_come_along(tmp_path: Path, monkeypatch) -> None:
    unlink, failing = Path.unlink, [True]

    def once_broken(path: Path, missing_ok: bool = False) -> None:
        if path.name == ".lock" and failing:
            failing.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok)

    with atomic_folder(tmp_path / "made") as temporary:
        (temporary / "inner").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", once_broken)
            write_json(temporary / "inner" / "file.json", {})
        assert len(inner(temporary / "inner")) == 2
    assert inner(tmp_path) == ["made"] and inner(tmp_path / "made" / "inner") == ["file.json"]


def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    remove_file(tmp_path / "not there")
    with pytest.raises(FileError, match=f"could not remove {tmp_path}/folder"):
        (tmp_path / "folder").mkdir()
        remove_file(tmp_path / "folder")


def test_a_leftover_without_locks_goes_when_it_is_old(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(locks, "try_lock", lambda handle: None)
    old, new = (tmp_path / f".run.json.{name}{atomic.TEMPORARY}" for name in ("abcdefgh", "ijklmnop"))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert inner(tmp_path) == [new.name]


def test_a_writer_whose_file_was_taken_for_a_leftover_takes_another(tmp_path: Path, monkeypatch) -> None:
    lock = locks.try_lock
    taken: list[Path] = []

    def late(handle: int) -> bool | None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            shutil.rmtree(taken[0])
        return lock(handle)

    monkeypatch.setattr(locks, "try_lock", late)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_json(tmp_path / "x.json", {})
    assert taken and inner(tmp_path) == ["x.json"]
