import errno
import multiprocessing
import os
import warnings

import pytest
import torch
from PIL import Image

from tests.data.pictures import FakeEncoder, make_picture
from vlmadapt import version
from vlmadapt.data import FeatureCache, extract_features
from vlmadapt.data import features as features_module
from vlmadapt.errors import FileError, InputError
from vlmadapt.pictures import read
from vlmadapt.pictures.read import digest_of


def extract_into(result, paths, cache):
    torch.set_num_threads(1)
    torch.save(extract(FakeEncoder(), paths, batch_size=1, cache=FeatureCache(cache)), result)


@pytest.fixture
def paths(tmp_path):
    return [make_picture(tmp_path / "img" / f"{number}.png", key=str(number)) for number in range(7)]


def extract(encoder, paths, **options):
    return extract_features(encoder, paths, progress=False, **options)


def direct(encoder, path):
    return encoder.encode_images(encoder.transform(read(path))[None])[0]


def test_features_equal_the_encoder_s_own(paths):
    encoder = FakeEncoder()
    features = extract(encoder, paths, batch_size=3)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, torch.stack([direct(encoder, path) for path in paths]))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(7))


def test_order_and_repeats_are_kept(paths):
    encoder = FakeEncoder()
    features = extract(encoder, [paths[3], paths[0], paths[3]])
    assert torch.equal(features[0], features[2]) and encoder.encoded == 2
    torch.testing.assert_close(features[1], direct(encoder, paths[0]))


def test_no_pictures():
    assert extract(FakeEncoder(), []).shape == (0, 5)


def test_views_are_averaged_before_normalising(paths):
    encoder = FakeEncoder()
    features = extract(encoder, paths[:1], views=3, seed=5)
    digest = digest_of(paths[0])
    views = torch.stack(
        [
            encoder.augment(
                read(paths[0]),
                torch.Generator().manual_seed(features_module.view_seed(digest, 5, view)),
            )
            for view in range(3)
        ]
    )
    mean = encoder.encode_images(views, normalize=False).mean(dim=0)
    torch.testing.assert_close(features[0], mean / mean.norm())


def test_each_view_by_itself(paths, tmp_path):
    """The picture as it is, then the first of those that are averaged otherwise; kept apart from their mean."""
    encoder, cache = FakeEncoder(), FeatureCache(tmp_path)
    every = extract(encoder, paths, views=3, seed=5, each_view=True, batch_size=4, cache=cache)
    assert every.shape == (7, 3, 5) and encoder.encoded == 21
    torch.testing.assert_close(every[:, 0], extract(FakeEncoder(), paths))
    seeds = (features_module.view_seed(digest_of(paths[2]), 5, view) for view in range(2))
    views = torch.stack([encoder.augment(read(paths[2]), torch.Generator().manual_seed(seed)) for seed in seeds])
    torch.testing.assert_close(every[2, 1:], encoder.encode_images(views))
    encoder.encoded = 0
    assert torch.equal(extract(encoder, paths, views=3, seed=5, each_view=True, cache=cache), every)
    assert encoder.encoded == 0
    extract(encoder, paths, views=3, seed=5, cache=cache)
    assert encoder.encoded == 21
    assert extract(encoder, [], views=3, each_view=True).shape == (0, 3, 5)


def test_views_depend_on_content_and_seed_only(paths, tmp_path):
    encoder = FakeEncoder()
    alone = extract(encoder, paths[4:5], views=2, seed=1)
    torch.testing.assert_close(extract(encoder, paths, views=2, seed=1, batch_size=3)[4:5], alone)
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[4].read_bytes())
    torch.testing.assert_close(extract(encoder, [copy], views=2, seed=1), alone)
    assert not torch.equal(extract(encoder, paths[4:5], views=2, seed=2), alone)


def test_views_of_different_pictures_differ_in_their_randomness():
    seeds = {features_module.view_seed(digest, seed, view) for digest in "ab" for seed in (0, 1) for view in (0, 1)}
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)


def test_bf16_runs_under_autocast(paths):
    exact, rough = extract(FakeEncoder(), paths), extract(FakeEncoder(), paths, precision="bf16")
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_unusable_feature_names_the_picture(paths, value):
    class Broken(FakeEncoder):
        def encode_images(self, pixels, normalize=True):
            return super().encode_images(pixels, normalize) * value

    with pytest.raises(InputError, match=r"gave the picture .*0\.png a feature of norm"):
        extract(Broken(), paths)


def test_corrupt_picture_is_named_and_earlier_work_is_kept(paths, tmp_path):
    paths[5].write_bytes(paths[5].read_bytes()[:30])
    encoder, cache = FakeEncoder(), FeatureCache(tmp_path / "cache")
    with pytest.raises(FileError, match=r"5\.png is not a readable picture"):
        extract(encoder, paths, cache=cache, batch_size=2)
    make_picture(paths[5], key="repaired")
    encoder.encoded = 0
    extract(encoder, paths, cache=cache)
    assert encoder.encoded == 3


def test_missing_picture_is_named(paths, tmp_path):
    with pytest.raises(FileError, match=r"gone\.png"):
        extract(FakeEncoder(), [*paths, tmp_path / "gone.png"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 0}, "views is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"views": 1.5}, "views is 1.5"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
    ],
)
def test_bad_arguments(paths, options, words):
    with pytest.raises(InputError, match=words):
        extract(FakeEncoder(), paths, **options)


class TestCache:
    @pytest.fixture
    def cache(self, tmp_path):
        return FeatureCache(tmp_path / "cache")

    def test_second_run_encodes_nothing(self, paths, cache):
        encoder = FakeEncoder()
        first = extract(encoder, paths, cache=cache)
        assert encoder.encoded == 7
        assert torch.equal(extract(encoder, paths, cache=FeatureCache(cache.root)), first)
        assert encoder.encoded == 7

    def test_what_a_killed_writer_left_goes_with_the_next_run_though_it_stores_nothing(self, paths, cache):
        extract(FakeEncoder(), paths, cache=cache)
        (shard,) = cache.root.rglob("*.safetensors")
        left = shard.with_name(f".{shard.name}.12345678.vlmadapt.tmp")
        left.mkdir()
        (left / ".lock").touch()
        extract(FakeEncoder(), paths, cache=cache)
        assert list(shard.parent.iterdir()) == [shard]

    def test_overlapping_sets_share_features_also_after_a_move(self, paths, cache, tmp_path):
        encoder = FakeEncoder()
        extract(encoder, paths[:4], cache=cache)
        moved = tmp_path / "renamed.png"
        moved.write_bytes(paths[1].read_bytes())
        extract(encoder, [moved, *paths[2:6]], cache=cache)
        assert encoder.encoded == 6

    def test_processes_share_one_cache(self, paths, cache, tmp_path, monkeypatch):
        """At the same time, a file after each picture: all have the features of one that is alone."""
        monkeypatch.setattr(features_module, "PICTURES_PER_SHARD", 1)
        context = multiprocessing.get_context("fork")
        workers = [
            context.Process(target=extract_into, args=(tmp_path / str(number), paths, cache.root))
            for number in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 4
        alone = extract(FakeEncoder(), paths, batch_size=1)
        encoder = FakeEncoder()
        results = [
            extract(encoder, paths, cache=cache),
            *(torch.load(tmp_path / str(number), weights_only=True) for number in range(4)),
        ]
        assert all(torch.equal(alone, features) for features in results) and encoder.encoded == 0
        assert not [path for path in cache.root.rglob("*") if path.name.endswith(".tmp")]

    def test_shards_bound_what_an_interruption_costs(self, paths, cache, monkeypatch):
        monkeypatch.setattr(features_module, "PICTURES_PER_SHARD", 3)
        extract(FakeEncoder(), paths, cache=cache)
        assert len(list(cache.root.rglob("*.safetensors"))) == 3

    @pytest.mark.parametrize(
        ("encoder", "options"),
        [
            (FakeEncoder(weight_seed=1), {}),
            (FakeEncoder(shift=0.1), {}),
            (FakeEncoder(), {"precision": "bf16"}),
            (FakeEncoder(), {"views": 2}),
            (FakeEncoder(), {"views": 2, "seed": 1}),
        ],
        ids=["weights", "transform", "precision", "views", "seed"],
    )
    def test_any_change_of_the_recipe_computes_again(self, paths, cache, encoder, options):
        extract(FakeEncoder(), paths, cache=cache)
        extract(FakeEncoder(), paths, cache=cache, views=2, seed=7)
        encoder.encoded = 0
        cached = extract(encoder, paths, cache=cache, **options)
        assert encoder.encoded == 7 * options.get("views", 1)
        assert torch.equal(cached, extract(encoder, paths, **options))

    def test_another_dtype_computes_again(self, paths, cache):
        extract(FakeEncoder(), paths, cache=cache)
        encoder = FakeEncoder()
        encoder.dtype = torch.bfloat16
        extract(encoder, paths, cache=cache)
        assert encoder.encoded == 7

    def test_another_package_version_computes_again(self, paths, cache, monkeypatch):
        encoder = FakeEncoder()
        extract(encoder, paths, cache=cache)
        monkeypatch.setattr(version, "__version__", "999")
        extract(encoder, paths, cache=cache)
        assert encoder.encoded == 14

    def test_changed_content_under_the_same_name_size_and_time_computes_again(self, paths, cache):
        encoder = FakeEncoder()
        Image.new("RGB", (4, 4), (10, 20, 30)).save(paths[0].with_suffix(".bmp"))
        path = paths[0].with_suffix(".bmp")
        before = path.stat()
        first = extract(encoder, [path], cache=cache)
        Image.new("RGB", (4, 4), (30, 20, 10)).save(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        second = extract(encoder, [path], cache=cache)
        assert encoder.encoded == 2 and not torch.equal(first, second)

    def test_one_view_shares_features_between_seeds(self, paths, cache):
        encoder = FakeEncoder()
        extract(encoder, paths, cache=cache, seed=1)
        extract(encoder, paths, cache=cache, seed=2)
        assert encoder.encoded == 7

    @pytest.mark.parametrize("damage", ["cut", "flip", "empty", "stranger"])
    def test_damaged_file_is_computed_again_with_a_warning(self, paths, cache, damage):
        encoder = FakeEncoder()
        first = extract(encoder, paths, cache=cache)
        (shard,) = cache.root.rglob("*.safetensors")
        data = shard.read_bytes()
        if damage == "stranger":  # a whole file, made by another recipe
            extract(FakeEncoder(weight_seed=1), paths, cache=cache)
            (other,) = set(cache.root.rglob("*.safetensors")) - {shard}
            shard.write_bytes(other.read_bytes())
        else:
            bad = {"cut": data[:-9], "flip": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}[damage]
            shard.write_bytes(bad)
        with pytest.warns(UserWarning, match=r"\.safetensors .*computed again"):
            extract(encoder, paths[:2], cache=cache)
        assert encoder.encoded == 9
        torch.testing.assert_close(extract(encoder, paths, cache=cache), first)
        assert encoder.encoded == 14
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            extract(encoder, paths, cache=cache)
        assert encoder.encoded == 14

    def test_folder_that_cannot_be_written_is_named_once(self, paths, tmp_path):
        # A file where the folder should be: refused for every user, root included.
        (tmp_path / "blocked").write_text("")
        encoder, cache = FakeEncoder(), FeatureCache(tmp_path / "blocked")
        with pytest.warns(UserWarning, match=r"feature cache .*blocked cannot be written") as caught:
            features = extract(encoder, paths[:3], cache=cache)
            extract(encoder, paths[3:], cache=cache)
        assert len(caught) == 1
        assert torch.equal(features, extract(encoder, paths[:3]))

    @pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
    def test_read_only_folder_or_full_disk_loses_nothing(self, paths, cache, monkeypatch, code):
        encoder = FakeEncoder()
        first = extract(encoder, paths[:3], cache=cache)

        def refuse(*arguments, **options):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            with pytest.warns(UserWarning, match=rf"cannot be written .*{os.strerror(code)}"):
                features = extract(encoder, paths, cache=cache)
        torch.testing.assert_close(features, extract(encoder, paths))
        encoder.encoded = 0
        assert torch.equal(extract(encoder, paths[:3], cache=cache), first)
        assert encoder.encoded == 0, "what was cached before the disk was full is still there"
        assert not [path for path in cache.root.rglob("*") if path.name.endswith(".tmp")]

    def test_picture_that_changes_while_it_is_read_is_refused(self, paths, cache, monkeypatch):
        monkeypatch.setattr(features_module, "digest_of", lambda path: "0" * 64)
        with pytest.raises(FileError, match=r"0\.png changed while features were computed"):
            extract(FakeEncoder(), paths[:1], cache=cache)
