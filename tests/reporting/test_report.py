"""The report as a file: nothing in it runs but its own scripts, whatever names are in it, and it is small."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser

import charts_library
import numpy as np
import pytest
import torch
from PIL import Image

from tests.experiments.test_results import results as older_results
from tests.experiments.world import TIP, ColourEncoder
from tests.reporting.reports import NAMES, classifier_of, compared, evaluated, evil_world
from vlmadapt.data import load_dataset
from vlmadapt.errors import FileError, shown
from vlmadapt.experiments import front
from vlmadapt.experiments.answers import pack_classes, unpack_classes
from vlmadapt.experiments.results import ProtocolResults, Truth
from vlmadapt.pictures.thumbnails import SIDE, Thumbnails
from vlmadapt.reporting.explanation import draw_prediction
from vlmadapt.reporting.report import gallery
from vlmadapt.reporting.report.compare import compare_report
from vlmadapt.reporting.report.confusion import confusion_figure, pairs_table, worst_pairs
from vlmadapt.reporting.report.evaluation import evaluation_report
from vlmadapt.reporting.report.gallery import MOST_PICTURES, Album
from vlmadapt.reporting.report.page import LIBRARY, Report, asset


class Seen(HTMLParser):
    """Tags with their attributes, the text of scripts, and all other text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._script: dict[str, str | None] | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs)
            self.scripts.append((self._script, ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.text += data
        else:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def figures(self):
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "figures"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return evil_world(tmp_path_factory.mktemp("evil"))


@pytest.fixture(scope="module")
def comparison(dataset):
    return compared(dataset)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tip"
    return classifier_of(dataset, folder), folder


@pytest.fixture(scope="module")
def evaluation(run, dataset):
    return evaluated(run[0], dataset)


@pytest.fixture(scope="module")
def pages(comparison, evaluation, dataset, run) -> dict[str, str]:
    return {
        "compare": compare_report(comparison, dataset).html(),
        "eval": evaluation_report(evaluation, run[1]).html(),
    }


KINDS = ("compare", "eval")


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_becomes_markup(pages, kind):
    seen = Seen(pages[kind])
    assert len(seen.scripts) == 3
    assert {tag for tag, _ in seen.tags}.isdisjoint({"img", "b", "iframe", "object", "embed", "base", "form"})
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], (tag, attributes)
        for name in ("href", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/jpeg;base64,")) or value == "data:,"
    for name in NAMES.values():
        assert shown(name) in seen.text or any(
            shown(name) in (value or "") for _, a in seen.tags for value in a.values()
        )
    assert "\u202e" not in pages[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_charts_is_no_markup_of_theirs(pages, kind):
    """Plotly knows tags and entities in text, and templates in some fields, which are not used."""

    def walk(value, key=""):
        if isinstance(value, dict):
            for name, each in value.items():
                assert not name.endswith("template"), name
                walk(each, name)
        elif isinstance(value, list):
            for each in value:
                walk(each, key)
        elif isinstance(value, str):
            assert "<" not in value and ">" not in value, (key, value)

    walk(Seen(pages[kind]).figures())


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_lets_only_the_two_scripts_run(pages, kind):
    seen = Seen(pages[kind])
    policy = next(a["content"] or "" for tag, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    parts = {name: value for name, _, value in (part.strip().partition(" ") for part in policy.split(";"))}
    assert parts["default-src"] == "'none'" and parts["img-src"] == "data:" and "connect-src" not in parts
    ours = [text for attributes, text in seen.scripts if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in ours]
    assert parts["script-src"] == " ".join(f"'sha256-{each}'" for each in hashes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_has_a_text_and_a_table(pages, kind):
    seen = Seen(pages[kind])
    plots = [attributes for _, attributes in seen.tags if attributes.get("class") == "plot"]
    assert {plot["data-figure"] for plot in plots} == set(seen.figures())
    assert len(plots) >= 3 and all(len(plot["aria-label"] or "") > 40 for plot in plots)
    folded = [attributes for tag, attributes in seen.tags if attributes.get("class") == "data"]
    assert len(folded) >= len(plots) and all(
        "open" in attributes for attributes in folded
    )  # without scripts, and in print
    anchors = {attributes["id"] for tag, attributes in seen.tags if tag == "h2"}
    links = {(attributes["href"] or "")[1:] for tag, attributes in seen.tags if tag == "a"}
    assert links == anchors | {"main"}
    ids = [attributes["id"] for _, attributes in seen.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_a_comparison_tells_predictions_of_every_fit(comparison, dataset, tmp_path):
    truth = comparison.truth()
    assert truth is not None and truth.class_names == dataset.class_names
    assert truth.labels.tolist() == [sample.label for sample in dataset.test]
    comparison.save(tmp_path)
    again = ProtocolResults.load(tmp_path)
    assert again == comparison
    for cell in again.cells:
        predicted, right = again.predicted(cell), again.right(cell)
        assert predicted is not None and right is not None
        assert (predicted == truth.labels).tolist() == right.tolist()


@pytest.mark.parametrize("classes", [3, 70_000])
def test_classes_as_text_come_back_and_damage_is_told(classes):
    labels = torch.arange(0, classes, max(1, classes // 50))
    text = pack_classes(labels, classes)
    assert unpack_classes(text, len(labels), classes).tolist() == labels.tolist()
    for damaged, pictures, known in (
        (text[:-4], len(labels), classes),
        (text, len(labels) + 1, classes),
        (text, len(labels) - 1, classes),
        (text, len(labels), int(labels.max())),
        ("!", len(labels), classes),
    ):
        with pytest.raises(ValueError, match="run again what wrote it"):
            unpack_classes(damaged, pictures, known)


def test_results_that_tell_less_have_fewer_sections(comparison, dataset):
    told = {section.name for section in compare_report(comparison, dataset).sections}
    assert {"Accuracy", "Differences", "Cost", "Classes", "Confusion", "Certainty", "Mistakes", "Settings"} == told
    old = {section.name for section in compare_report(older_results(), dataset).sections}
    assert old == {"Accuracy", "Differences", "Cost", "Settings"}
    one = older_results({("zero-shot", 4): [0.3]})
    page = compare_report(one)
    assert {section.name for section in page.sections} == {"Accuracy", "Cost", "Settings"}
    assert "seed 0 only" in page.html()


def test_of_many_classes_the_worst_pairs_are_shown(comparison, dataset):
    names = tuple(f"class {i}" for i in range(80))
    matrix = torch.eye(80, dtype=torch.long) * 5
    matrix[3, 7], matrix[10, 2] = 9, 4
    figure, width = confusion_figure(matrix, names)
    assert width == 640 and figure["data"][0]["type"] == "bar"
    assert figure["layout"]["yaxis"]["ticktext"] == ["class 3 → class 7", "class 10 → class 2"]
    assert worst_pairs(matrix, 1) == [(3, 7, 9)]
    assert pairs_table([("", matrix)], names).rows[0] == ["class 3", "class 7", "9", "64 %"]
    few, width = confusion_figure(matrix[:60, :60], names[:60])
    assert width > 900 and few["data"][0]["type"] == "heatmap" and len(few["data"][0]["z"]) == 60
    # Classes that no picture has to do with take no room.
    assert len(confusion_figure(torch.diag(torch.tensor([1, 0, 2])), names[:3])[0]["data"][0]["z"]) == 2


def test_names_that_are_cut_or_equal_stay_apart():
    figure, _ = confusion_figure(torch.ones(3, 3, dtype=torch.long), ["x" * 50 + "1", "x" * 50 + "2", "2"])
    axis = figure["layout"]["yaxis"]
    assert axis["tickvals"] == [0, 1, 2] and len(axis["ticktext"]) == 3


def test_without_a_mistake_that_is_said(evaluation, comparison):
    right = replace(evaluation, mistakes=[], probabilities=torch.eye(4)[evaluation.labels])
    page = evaluation_report(right).html()
    assert f"No mistake: all {len(right.labels)} pictures are classified rightly." in page
    assert "No picture was taken for another class." in page


def test_pictures_can_be_left_out(evaluation, run, dataset, comparison):
    for report in (evaluation_report(evaluation, run[1], pictures=False), compare_report(comparison, dataset, False)):
        assert "<symbol" not in report.html() and 'class="gallery"' in report.html()


def test_mistakes_come_with_votes_and_filters(evaluation, run):
    seen = Seen(evaluation_report(evaluation, run[1]).html())
    cards = [json.loads(a["data-facets"] or "") for tag, a in seen.tags if a.get("data-facets")]
    assert len(cards) == len(evaluation.mistakes) and all(len(facets) == 2 for facets in cards)
    votes = [a for tag, a in seen.tags if tag == "li" and a.get("class") in ("agrees", "differs")]
    assert len(votes) == sum(min(4, len(one.votes)) for one in evaluation.mistakes)
    pictures = [a for tag, a in seen.tags if tag == "symbol"]
    assert 0 < len(pictures) <= MOST_PICTURES


def test_an_album_ends_at_its_limit_and_the_page_stays_small(tmp_path, monkeypatch):
    """Of the pictures that compress worst; the library is most of the rest."""
    album = Album()
    generator = np.random.default_rng(0)
    for i in range(MOST_PICTURES + 3):
        path = tmp_path / f"{i}.png"
        Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        album.show(path, "noise")
        album.show(path, "noise again")
    page = Report("t", "l", [], [], album).html()
    assert page.count("<symbol") == MOST_PICTURES and album.full
    assert len(page.encode()) < 5_000_000
    assert len(asset(LIBRARY)) < 1_600_000


def test_many_methods_classes_and_long_names_stay_below_the_limit(comparison):
    """60 classes, 17 methods, and names of 200 characters."""
    names = tuple(f"{'class of pictures ' * 11}{i}" for i in range(60))
    labels = torch.arange(60).repeat_interleave(20)
    cells = [
        replace(
            comparison.cells[0],
            method=f"method {i}",
            right=None,
            predicted=pack_classes(torch.randint(0, 60, (1200,), generator=torch.Generator().manual_seed(i)), 60),
        )
        for i in range(17)
    ]
    about = {
        "name": "many",
        "classes": 60,
        "test": 1200,
        "class_names": list(names),
        "labels": pack_classes(labels, 60),
    }
    many = replace(
        comparison,
        dataset=about,
        methods={cell.method: {} for cell in cells},
        cells=tuple(cells),
        protocol={**comparison.protocol, "seeds": [0]},
    )
    assert isinstance(many.truth(), Truth)
    assert len(compare_report(many).html().encode()) < 5_000_000


def test_thumbnails_outlive_the_pictures(tmp_path):
    made = evil_world(tmp_path / "data")
    classifier = classifier_of(made, tmp_path / "run")
    kept = Thumbnails(tmp_path / "run")
    assert all(kept.of(each.name) for each in classifier.support) and kept.of("another") is None
    query = tmp_path / "query.png"
    shutil.copy(made.test[0].path, query)
    shutil.rmtree(tmp_path / "data")
    loaded = type(classifier).load(tmp_path / "run", encoder=classifier.encoder)
    prediction = loaded.predict([query], votes=3)[0]
    with_them = draw_prediction(prediction, tmp_path / "with.png", loaded.thumbnails)
    without = draw_prediction(prediction, tmp_path / "without.png")
    assert with_them.read_bytes() != without.read_bytes()
    # Saved elsewhere, they go along; without any, none are kept.
    loaded.save(tmp_path / "copy")
    assert Thumbnails(tmp_path / "copy").of(loaded.support[0].name) == kept.of(loaded.support[0].name)
    assert Thumbnails(tmp_path).of("any") is None
    (tmp_path / "run" / "thumbnails.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileError, match=r"thumbnails\.safetensors"):
        Thumbnails(tmp_path / "run").of("any")


def test_a_picture_that_is_gone_is_said_to_be(tmp_path):
    album = Album()
    assert "no picture" in album.show(tmp_path / "gone.png", "test picture")
    assert "no picture" not in album.show(tmp_path / "gone too.png", "support", lambda: b"jpeg")
    assert album.html().count("<symbol") == 1


def test_galleries_end_at_their_limit(evaluation, run, monkeypatch):
    monkeypatch.setattr("vlmadapt.reporting.report.evaluation.MOST_CARDS", 2)
    page = evaluation_report(evaluation, run[1]).html()
    assert page.count("data-facets") == 2 < len(evaluation.mistakes)
    assert f"2 of {len(evaluation.mistakes)}, the most certain ones of each class in turn" in page


def test_the_library_is_the_file_that_the_notice_names():
    version, digest = charts_library.noted()
    data = (charts_library.ASSETS / LIBRARY).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest and f"v{version}".encode() in data[:200]
    text = data.decode()
    # Inline, it must end nowhere but at its end, be hashed as it is, and need no evaluation of text.
    assert not any(part in text for part in ("</script", "<!--", "\r", "new Function", "eval("))


def test_facets_count_what_they_offer():
    facet, fits = gallery.facet_of("class", [["b"], ["a", "b"], ["c"], []])
    assert facet.options == ["b (2)", "a (1)", "c (1)"] and fits == [[0], [1, 0], [2], []]


@pytest.mark.skipif(sys.platform == "win32", reason="file names")
def test_an_unwritable_place_is_named(tmp_path, evaluation):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        evaluation_report(evaluation).write(tmp_path / "file" / "report.html")


def test_of_several_test_sets_each_has_its_curve_and_the_first_its_confusion(dataset):
    found = front.compare(
        dataset,
        adapters=("zero-shot", TIP),
        shots=(1, 2),
        seeds=1,
        protocol="base-to-new",
        encoder=ColourEncoder(),
        no_cache=True,
    )
    base, new = (found.truth(place) for place in found.test_sets)
    assert base is not None and new is not None
    assert (*base.class_names, *new.class_names) == dataset.class_names
    report = compare_report(found, dataset.only(base.class_names))
    [curves] = report.sections[0].charts
    assert list(curves.figures) == list(found.test_sets) and len(found.test_sets) == 2
    confusion = next(section for section in report.sections if section.name == "Confusion").charts[0]
    assert len(next(iter(confusion.figures.values()))["data"][0]["z"]) == 2


def test_rows_of_features_have_answers_and_no_pictures(dataset, tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(30)
    features = torch.randn(4, 16, generator=generator)[labels] + 2 * torch.randn(120, 16, generator=generator)
    names = np.array(["<b>one", "two", "three", "four"])
    np.savez(tmp_path / "given.npz", features=features.numpy(), labels=labels.numpy(), class_names=names)
    given = load_dataset(tmp_path / "given.npz")
    found = front.compare(given, adapters=("ncm", "gda"), shots=(2,), seeds=1, no_cache=True)
    page = compare_report(found, given).html()
    assert "data-facets" in page and "<symbol" not in page and "<b>one" not in page
