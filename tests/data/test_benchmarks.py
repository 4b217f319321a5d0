import pytest

from tests.data.pictures import coop_file, make_picture
from vlmadapt.data import BENCHMARKS, TEMPLATES, check_dataset, load_benchmark, load_dataset
from vlmadapt.data.benchmarks import find_benchmark
from vlmadapt.errors import FileError

COOP = [name for name, benchmark in BENCHMARKS.items() if benchmark.layout == "coop"]


def make_coop(root, name):
    benchmark = BENCHMARKS[name]
    images = root / benchmark.folder / benchmark.images
    rows = {
        split: [(f"{label}_{split}/{n}.jpg", label, f"class_{label}") for label in (0, 1) for n in range(2)]
        for split in ("train", "val", "test")
    }
    for entries in rows.values():
        for path, _, _ in entries:
            make_picture(images / path)
    coop_file(root / benchmark.folder / benchmark.split_file, **rows)
    return root


def make_aircraft(root):
    folder = root / "fgvc_aircraft"
    for split, first in (("train", 0), ("val", 2), ("test", 4)):
        for number in (first, first + 1):
            make_picture(folder / "images" / f"{number:07d}.jpg")
        lines = f"{first:07d} 707-320\n{first + 1:07d} A300 B4\n"
        (folder / f"images_variant_{split}.txt").write_text(lines)
    (folder / "variants.txt").write_text("707-320\nA300 B4\n")
    return root


def make_imagenet(root):
    folder = root / "imagenet"
    for split, count in (("train", 5), ("val", 2)):
        for wnid in ("n01440764", "n01443537"):
            for number in range(count):
                make_picture(folder / "images" / split / wnid / f"{number}.JPEG.jpg")
    (folder / "classnames.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    return root


def test_the_eleven_benchmarks_have_templates():
    assert len(BENCHMARKS) == 11
    assert set(BENCHMARKS) <= set(TEMPLATES)
    assert all(template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates)
    assert len(TEMPLATES["imagenet"]) == 7


@pytest.mark.parametrize("name", COOP)
def test_coop_layouts(tmp_path, name):
    dataset = load_benchmark(name, make_coop(tmp_path, name))
    assert dataset.name == name and dataset.templates == TEMPLATES[name]
    assert dataset.class_names == ("class 0", "class 1")
    assert (dataset.counts("train"), dataset.counts("val"), dataset.counts("test")) == ([2, 2], [2, 2], [2, 2])


def test_aircraft(tmp_path):
    dataset = load_dataset("FGVC-Aircraft", root=make_aircraft(tmp_path))
    assert dataset.class_names == ("707-320", "A300 B4")
    assert dataset.counts("train") == dataset.counts("val") == dataset.counts("test") == [1, 1]
    assert dataset.train[1].path.name == "0000001.jpg"


def test_aircraft_with_an_unknown_variant(tmp_path):
    (make_aircraft(tmp_path) / "fgvc_aircraft" / "variants.txt").write_text("707-320\n")
    with pytest.raises(FileError, match=r"images_variant_train\.txt line 2 names the variant 'A300 B4'"):
        load_benchmark("fgvcaircraft", tmp_path)


def test_imagenet_val_is_the_test_split(tmp_path):
    dataset = load_dataset("imagenet", root=make_imagenet(tmp_path))
    assert dataset.class_names == ("tench", "goldfish")
    assert (dataset.counts("train"), dataset.counts("val"), dataset.counts("test")) == ([4, 4], [1, 1], [2, 2])
    assert all("/images/val/" in str(sample.path) for sample in dataset.test)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_missing_is_named(tmp_path, name):
    required = BENCHMARKS[name].required()
    with pytest.raises(FileError, match=BENCHMARKS[name].title):
        load_benchmark(name, tmp_path)
    report = check_dataset(name, root=tmp_path, progress=False)
    assert not report.ok
    assert {path.relative_to(tmp_path).as_posix() for path in report.missing} == {*required}


@pytest.mark.parametrize(
    ("spoken", "key"),
    [("Caltech-101", "caltech101"), ("oxford_flowers", "flowers102"), ("Pets", "oxfordpets"), ("cifar10", None)],
)
def test_names(spoken, key):
    assert find_benchmark(spoken) == key


def test_published_split_file_alone_finds_its_pictures(tmp_path):
    make_coop(tmp_path, "dtd")
    dataset = load_dataset(tmp_path / "dtd" / "split_zhou_DescribableTextures.json")
    assert dataset.name == "dtd" and dataset.templates == ("{} texture.",)
