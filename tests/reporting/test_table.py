from __future__ import annotations

import io
import re
from dataclasses import replace

import torch
from rich.console import Console

from tests.experiments.test_results import results
from vlmadapt.experiments.rights import pack
from vlmadapt.reporting.table import Table, gains_table, protocol_table, show, to_markdown

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def shown(table: Table, width: int = 120, terminal: bool = True) -> str:
    stream = io.StringIO()
    show(table, Console(file=stream, width=width, force_terminal=terminal, no_color=True))
    return ANSI.sub("", stream.getvalue()) if terminal else stream.getvalue()


def test_the_protocol_table_has_accuracy_and_cost():
    table = protocol_table(results())
    assert list(table.header) == ["method", "1 shot", "trained", "fit s", "peak MiB"]
    assert table.rows[1] == ["tip-adapter", "45.0 ± 5.0 [17.1, 76.4]", "10", "2.0", "102"]
    assert table.bold == {(1, 1)}
    assert "3 seeds" in table.notes[0]


def test_one_seed_says_so_and_shows_no_deviation():
    table = protocol_table(results({("zero-shot", 1): [0.3]}))
    assert table.rows[0][1] == "30.0 [8.9, 65.3]"
    assert "seed 0 only" in table.notes[0]


def test_seeds_that_drew_the_same_pictures_are_named():
    drawn = results({("tip-adapter", 1): [0.3, 0.3, 0.3], ("tip-adapter", 4): [0.3, 0.3, 0.3]})
    hashes = {(1, 0): "a", (1, 1): "b", (1, 2): "a", (4, 0): "c", (4, 1): "c", (4, 2): "c"}
    same = replace(drawn, cells=tuple(replace(cell, split_hash=hashes[cell.shots, cell.seed]) for cell in drawn.cells))
    table = protocol_table(same)
    notes = [note for note in table.notes if "same pictures" in note]
    assert [note.partition(" drew")[0] for note in notes[1:]] == ["1 shot: seeds 0, 2"]
    assert table.rows[0][1:3] == ["30.0 ± 0.0 [8.9, 65.3]", "30.0 same [8.9, 65.3]"]  # of 4 shots all seeds are alike
    assert notes[0].startswith("same: all seeds saw the same pictures")
    apart = replace(drawn, cells=tuple(replace(cell, split_hash=str(cell.seed)) for cell in drawn.cells))
    assert not any("same pictures" in note for note in protocol_table(apart).notes)


def test_seeds_that_trained_on_the_same_pictures_and_chose_by_others_are_said():
    drawn = results({("tip-adapter", 4): [0.3, 0.3, 0.4]})
    alike = replace(drawn, cells=tuple(replace(cell, train_hash="a") for cell in drawn.cells))
    table = protocol_table(alike)
    assert "±" in table.rows[0][1]
    assert any(note.startswith("4 shots: all seeds trained on the same pictures") for note in table.notes)
    assert not any("trained on the same" in note for note in protocol_table(drawn).notes)


def test_zero_shot_sees_no_draw_whatever_it_is():
    assert protocol_table(results()).rows[0][1] == "30.0 same [8.9, 65.3]"


def test_differences_are_paired_by_picture_and_seed():
    plain = gains_table(results())
    assert plain is not None and plain.rows == [["tip-adapter", "+15.0"]] and not plain.notes  # none kept, no interval
    bits = {"zero-shot": "1111000000", "tip-adapter": "1111100000"}
    packed = {name: pack(torch.tensor([int(bit) for bit in text], dtype=torch.bool)) for name, text in bits.items()}
    shares = {(name, 1): [text.count("1") / 10] * 3 for name, text in bits.items()}
    one = results(shares)
    kept = replace(
        one,
        dataset={**one.dataset, "test": 10},
        cells=tuple(replace(cell, right=packed[cell.method]) for cell in one.cells),
    )
    table = gains_table(kept)
    assert table is not None and table.rows == [["tip-adapter", "+10.0 [+0.0, +30.0]"]]
    assert "bootstrap" in table.notes[0] and "zero-shot" in table.title
    assert gains_table(results({("zero-shot", 1): [0.3]})) is None


def test_markdown_columns_line_up():
    table = Table("t", ["name", "value"], [["a|b", "1"], ["果物", "22"], ["long name", "333"]])
    lines = to_markdown(table).splitlines()[2:]
    assert lines[0] == "| name      | value |"
    assert lines[1] == "|:----------|------:|"
    assert lines[2] == "| a\\|b      |     1 |"
    assert lines[3] == "| 果物      |    22 |"  # two columns a character


def test_piped_output_is_markdown_without_colours():
    text = shown(protocol_table(results()), terminal=False)
    assert "| zero-shot   |   30.0 same [8.9, 65.3] |" in text
    assert "\x1b" not in text


def test_a_narrow_terminal_gets_the_columns_in_several_tables():
    accuracy = {("tip-adapter", shots): [0.4, 0.5] for shots in (1, 2, 4, 8, 16)}
    table = protocol_table(results(accuracy))
    wide, narrow = shown(table, 200), shown(table, 80)
    assert wide.count("tip-adapter") == 1
    assert narrow.count("tip-adapter") == 3
    assert narrow.count("45.0 ± 7.1 [17.1, 76.4]") == 5
    assert max(map(len, narrow.splitlines())) <= 80


def test_markup_in_names_is_text():
    assert "[red]x" in shown(Table("t", ["name"], [["[red]x"]]))
