import pytest

from facecluster.transforms.photos.shards import choose_shard_size


@pytest.mark.parametrize(
    ("n_photos", "n_shards", "most", "expected"),
    [
        (1_000, 32, 256, 32),  # 31.25 rounded up
        (1_000_000, 32, 256, 256),  # at most
        (100, 32, 256, 16),  # worth a file
        (100, 32, 8, 8),
    ],
)
def test_choose_shard_size(n_photos, n_shards, most, expected):
    assert choose_shard_size(n_photos, n_shards, most) == expected
