"""A file's path and the same file opened with PIL are one picture, through every door there is."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.pictures import FakeEncoder
from tests.pictures.samples import KINDS, UPRIGHT
from vlmadapt.adapters import create_adapter
from vlmadapt.backbones.generative.blip import PictureTransform
from vlmadapt.data import extract_features
from vlmadapt.pictures import read
from vlmadapt.pictures.views import to_pixels

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def opened(path):
    """The picture as a user may hold it: not read yet, read, copied, and opened from memory."""
    loaded, copied = Image.open(path), Image.open(path).copy()
    loaded.load()
    return [Image.open(path), loaded, copied, Image.open(io.BytesIO(path.read_bytes()))]


@every_kind
def test_a_path_and_an_opened_picture_are_read_as_a_person_sees_them(tmp_path, kind):
    path = kind.write(tmp_path)
    from_path = np.asarray(read(path)).astype(int)
    assert from_path.shape == kind.seen.shape
    assert np.abs(from_path - kind.seen).max() <= kind.within
    for image in opened(path):
        once = read(image)
        assert once.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(once), from_path)
        np.testing.assert_array_equal(np.asarray(read(once)), from_path)  # not turned twice
        np.testing.assert_array_equal(np.asarray(read(image)), from_path)  # and the caller's picture is as it was


@every_kind
def test_an_adapter_and_the_extraction_give_equal_features(tmp_path, kind):
    path = kind.write(tmp_path)
    encoder = FakeEncoder()
    feature = extract_features(encoder, [path], progress=False)
    adapter = create_adapter("tip-adapter", torch.eye(5)[:2], 10.0, encoder=encoder)
    adapter.fit([path, *opened(path)[:1]], torch.tensor([0, 1]))
    keys = adapter.get_buffer("keys")
    assert torch.equal(keys[0], keys[1])
    expected = adapter.logits(path)
    torch.testing.assert_close(expected, adapter.logits(feature))
    for picture in (str(path), *opened(path)):
        assert torch.equal(adapter.logits([picture]), expected)


@every_kind
def test_transforms_read_what_they_are_given(tmp_path, kind):
    path = kind.write(tmp_path)
    for transform in (PictureTransform((16, 24)), to_pixels):
        expected = transform(read(path))
        assert all(torch.equal(transform(image), expected) for image in opened(path))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_16_bit_picture_with_alpha_or_16_bits_is_turned_too(tmp_path, orientation):
    values = np.arange(54, dtype=np.uint16).reshape(6, 9) * 257
    grey = Image.fromarray(values)
    exif = grey.getexif()
    exif[0x0112] = orientation
    grey.save(tmp_path / "wide.png", exif=exif)
    alpha = np.stack([values // 257, values * 0 + 255], axis=-1).astype(np.uint8)
    Image.fromarray(alpha).save(tmp_path / "alpha.png", exif=exif)
    for name in ("wide.png", "alpha.png"):
        for picture in (tmp_path / name, Image.open(tmp_path / name)):
            np.testing.assert_array_equal(np.asarray(read(picture))[..., 0], UPRIGHT[orientation](values // 257))
