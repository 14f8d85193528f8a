"""A photo's hash hardly changes when it is saved again; images without structure have none."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from facecluster.transforms.photos.near_duplicates import MAX_DISTANCE
from facecluster.transforms.photos.perceptual_hash import perceptual_hash

seeds = st.integers(0, 2**32 - 1)


def scene(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """Coarse and fine blotches of color, with as much structure as a photo."""
    random = np.random.default_rng(seed)
    layers = [
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
        .resize((width, height), Image.Resampling.BICUBIC)
        for side in (4, 8, 16)
    ]  # fmt: skip
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def save_and_open(image: Image.Image, file_format: str, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(file).convert("RGB")


def bits_between(a: int, b: int) -> int:
    return ((a ^ b) % 2**64).bit_count()


def published_hash(image: Image.Image) -> int:
    """pHash as imagehash computes it: with the DCT as a sum, and without a reducing gap."""
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    x = np.arange(32)
    low = np.array([
        [(gray * np.outer(np.cos(np.pi * v * (x + 0.5) / 32), np.cos(np.pi * u * (x + 0.5) / 32)))
         .sum() * (0.5**0.5 if u == 0 else 1) * (0.5**0.5 if v == 0 else 1)
         for u in range(8)]
        for v in range(8)
    ])  # fmt: skip
    bits = (low > np.median(low)).ravel()
    return int("".join(map(str, bits.astype(int))), 2)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(30, 95), st.sampled_from(["JPEG", "WEBP"]))
def test_saving_again_hardly_changes_the_hash(seed, quality, file_format):
    image = scene(seed)
    again = save_and_open(image, file_format, quality=quality)
    assert bits_between(perceptual_hash(image), perceptual_hash(again)) <= MAX_DISTANCE


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.25, 2), st.floats(0.8, 1))
def test_resizing_and_darkening_hardly_change_the_hash(seed, scale, light):
    image = scene(seed)
    size = (round(image.width * scale), round(image.height * scale))
    again = ImageEnhance.Brightness(image.resize(size, Image.Resampling.BICUBIC)).enhance(light)
    assert bits_between(perceptual_hash(image), perceptual_hash(again)) <= MAX_DISTANCE


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_saving_without_loss_does_not_change_the_hash(seed):
    image = scene(seed)
    assert perceptual_hash(save_and_open(image, "PNG")) == perceptual_hash(image)


@pytest.mark.parametrize("size", [(60, 45), (1200, 900)], ids=["small", "reduced first"])
def test_the_hash_is_the_published_one_except_for_rounding(size):
    images = [scene(seed, *size) for seed in range(30)]
    distances = [bits_between(perceptual_hash(image), published_hash(image)) for image in images]
    assert max(distances) <= 2
    assert distances.count(0) > 20


def test_different_scenes_are_far_apart():
    hashes = np.array([perceptual_hash(scene(seed)) for seed in range(100)]).view(np.uint64)
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    assert distances[np.triu_indices(100, 1)].min() > 2 * MAX_DISTANCE
    assert {value.bit_count() for value in hashes.tolist()} == {32}


ROWS, COLUMNS = np.mgrid[:300, :400]
NOISE = np.random.default_rng(0).normal(0, 1, (300, 400))


@pytest.mark.parametrize(
    "gray",
    [
        0 * ROWS, 0 * ROWS + 255, 0 * ROWS + 90, 80 + 0.4 * ROWS, 0.3 * (ROWS + COLUMNS),
        80 + 0.4 * ROWS + 4 * NOISE, 6 + 6 * NOISE, np.where(ROWS > 200, 60, 180),
    ],
    ids=["black", "white", "gray", "ramp", "slanted ramp", "sky", "night", "horizon"],
)  # fmt: skip
def test_images_without_structure_have_no_hash(gray):
    image = Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).convert("RGB")
    assert perceptual_hash(image) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (7, 3)])
def test_images_of_any_size(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    found = perceptual_hash(Image.fromarray(pixels))
    assert found is None or -(2**63) <= found < 2**63


def test_hashes_of_photos_of_people_hardly_change_in_thumbnails(group_photos):
    names = sorted(path for path in group_photos.iterdir() if path.suffix == ".jpg")
    for path in names:
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        thumbnail = image.copy()
        thumbnail.thumbnail((160, 160))
        again = save_and_open(thumbnail, "JPEG", quality=75)
        assert bits_between(perceptual_hash(image), perceptual_hash(again)) <= MAX_DISTANCE
    assert names
