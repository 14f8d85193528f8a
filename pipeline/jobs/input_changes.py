"""Finds the inputs of a run that have changed, moved or disappeared since they were embedded."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.pipeline.jobs.embed_plan import EmbedPlan
from facecluster.transforms.inputs.listing import Listing
from facecluster.transforms.inputs.paths import path_of_uri
from facecluster.transforms.inputs.sources import SEPARATOR, Source
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.columns import column, count_earlier, is_in

EXISTENCE_THREADS = 16

HashPhotos = Callable[[Sequence[Source]], pa.Table]
"""Gives columns uri and photo_id (null if it cannot be read) of inputs, in any order."""


@dataclass(frozen=True)
class InputChanges:
    """What has become of the inputs that a run holds.

    Attributes:
      changed: (n,) string, the URIs whose bytes are others.
      moved: rows of schema.EDITS, photos that are listed under a new URI and no longer under the
        old one.
      missing: rows of schema.EDITS without new URIs, inputs that are no longer in a folder or
        container that was listed completely.
    """

    changed: pa.Array
    moved: pa.Table
    missing: pa.Table

    def edits(self, forget_missing: bool) -> pa.Table:
        """Rows of schema.EDITS, for the tables of the run."""
        return pa.concat_tables([self.moved, self.missing]) if forget_missing else self.moved


def find_changes(plan: EmbedPlan, listing: Listing, hash_photos: HashPhotos) -> InputChanges:
    """Compares the inputs that a run holds with a listing.

    Only inputs whose size or version is another, and new ones with the size and version of one that
    is gone, are read.

    Args:
      plan: of the run, without superseded rows.
      listing: the inputs now.
      hash_photos: reads inputs.
    """
    held, listed = plan.held_rows(), listing.table
    at = pc.index_in(held["uri"], column(listed, "uri")).combine_chunks()
    is_other = pc.or_(
        *(pc.not_equal(held[name], listed[name].take(at)) for name in ("size", "version"))
    )
    edited = held.filter(pc.fill_null(is_other, False))
    gone = held.filter(at.is_null())
    arrived = listed.filter(
        _and(listed["version"].is_valid(), pc.invert(is_in(listed["uri"], plan.rows["uri"])))
    )
    left, arrived = _find_possible_moves(gone, arrived, listing)

    known = _known_photo_ids(plan, pa.concat_tables([edited, left]))
    is_photo = is_in(edited["uri"], known["uri"])
    uris = pa.concat_arrays([column(edited.filter(is_photo), "uri"), column(arrived, "uri")])
    photo_ids = schema.PHOTO_IDS.empty_table()
    if len(uris):
        rows = pc.index_in(uris, column(listed, "uri")).to_pylist()
        photo_ids = hash_photos([listing.sources[row] for row in rows])
    same = _and(
        is_photo,
        pc.fill_null(pc.equal(_look_up(photo_ids, edited), _look_up(known, edited)), False),
    )
    moved = _match_moves(left, arrived, known, photo_ids)
    unmoved = gone.filter(pc.invert(is_in(gone["uri"], moved["uri"])))
    missing = unmoved.filter(is_gone_from_listed(column(unmoved, "uri"), listing))
    return InputChanges(column(edited.filter(pc.invert(same)), "uri"), moved, _as_edits(missing))


def check_removal(plan: EmbedPlan, listing: Listing, changes: InputChanges) -> None:
    """Refuses to remove all inputs below an input folder, as if a disk were not mounted.

    Raises:
      InputError: an input folder lists none of the inputs that the run holds of it.
    """
    removed = column(changes.missing, "uri")
    leaving = pa.concat_arrays([removed, column(changes.moved, "uri")])
    held = plan.held_rows()["uri"]
    stay = held.filter(pc.invert(is_in(held, leaving)))
    for folder in sorted(listing.input_folders & listing.fully_listed):
        prefix = folder.rstrip("/") + "/"
        n_removed = pc.sum(pc.starts_with(removed, prefix)).as_py() or 0
        if n_removed and not pc.any(pc.starts_with(stay, prefix)).as_py():
            photos = "its only photo" if n_removed == 1 else f"any of its {n_removed:,} photos"
            raise InputError(
                f"{folder} does not list {photos} in the run: is its disk mounted? If they were "
                "deleted, leave out --forget-removed, or start again with --overwrite"
            )


def is_gone_from_listed(uris: pa.Array, listing: Listing) -> pa.Array:
    """(n,) bool: whether the folder or container of inputs that are not listed was listed.

    The innermost of the folders and containers around an input decides that was an input, or was
    found in one. If it could not be listed, the input may still exist.

    Args:
      uris: (n,) string, of inputs that the listing does not have.
    """
    folders = pc.replace_substring_regex(uris, r"/[^/]*$", "").dictionary_encode()
    names = folders.dictionary.to_pylist()
    around = {folder: list(_names_around(folder)) for folder in names}
    all_names = {name for those in around.values() for name, _ in those}
    all_names = pa.array(sorted(all_names), pa.string())
    failed = set(all_names.filter(is_in(all_names, listing.table["uri"])).to_pylist())

    def is_listed(folder: str) -> bool:
        for name, inner in around[folder]:
            if name in failed:
                return False
            if name in listing.fully_listed:
                return not (inner and _is_broken_link(inner))
        return False

    flags = pa.array([is_listed(name) for name in names], pa.bool_())
    return flags.take(folders.indices)


def _names_around(folder: str):
    """The folder of an input and those around it, each with the one within it, innermost first.

    The folder of a member of a container looks like CONTAINER! in its URI.
    """
    inner = None
    while True:
        if folder.endswith(SEPARATOR[0]):
            yield folder.removesuffix(SEPARATOR[0]), None
        yield folder or "/", inner
        if not folder:
            return
        inner, folder = folder, folder.rpartition("/")[0]


def _is_broken_link(uri: str) -> bool:
    """Whether a folder cannot be reached through the link that has its name."""
    path = path_of_uri(uri)
    return os.path.islink(path) and not os.path.exists(path)


def _find_possible_moves(
    gone: pa.Table, arrived: pa.Table, listing: Listing
) -> tuple[pa.Table, pa.Table]:
    """The inputs that are gone and those that are new, with a size and version that are in both."""
    gone = gone.filter(_and(gone["version"].is_valid(), is_in(_pairs(gone), _pairs(arrived))))
    gone = gone.filter(pc.invert(_still_exist(column(gone, "uri"), listing)))
    return gone, arrived.filter(is_in(_pairs(arrived), _pairs(gone)))


def _still_exist(uris: pa.Array, listing: Listing) -> pa.Array:
    """(n,) bool: whether inputs that are not listed still exist.

    A member of a container that was not listed counts as existing if the container does.
    """
    gone = is_gone_from_listed(uris, listing).to_pylist()
    names = [
        None if is_gone else _file_of(uri)
        for uri, is_gone in zip(uris.to_pylist(), gone, strict=True)
    ]
    distinct = sorted({name for name in names if name})
    with ThreadPoolExecutor(EXISTENCE_THREADS) as pool:
        existing = {
            n for n, exists in zip(distinct, pool.map(_exists, distinct), strict=True) if exists
        }
    return pa.array([name in existing for name in names], pa.bool_())


def _file_of(uri: str) -> str:
    """The container of a member, or the file itself."""
    container = uri.partition(SEPARATOR)[0]
    return uri if os.path.isdir(path_of_uri(container) + SEPARATOR[0]) else container


def _exists(uri: str) -> bool:
    if FileSystems.get_scheme(uri):
        return FileSystems.exists(uri)
    return os.path.lexists(path_of_uri(uri))


def _known_photo_ids(plan: EmbedPlan, rows: pa.Table) -> pa.Table:
    """Columns uri and photo_id of those rows of the plan that are photos."""
    shards = pc.unique(rows["shard"]).to_pylist()
    photos, _ = plan.run.read_shards("photos", ["uri", "photo_id"], shards)
    return photos.filter(is_in(photos["uri"], rows["uri"]))


def _match_moves(
    left: pa.Table, arrived: pa.Table, known: pa.Table, photo_ids: pa.Table
) -> pa.Table:
    """Pairs photos that are gone with new ones of the same photo_id, each once."""
    old, new = _look_up(known, left), _look_up(photo_ids, arrived)
    codes = pa.concat_arrays([old, new]).dictionary_encode().indices
    codes = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    keys = []
    for part in np.split(codes, [len(old)]):
        n_before = count_earlier(part)
        keys.append(np.where(part < 0, -1, part * (len(codes) + 1) + n_before))
    _, at_old, at_new = np.intersect1d(keys[0], keys[1], return_indices=True)
    is_match = keys[0][at_old] >= 0
    at_old, at_new = at_old[is_match], at_new[is_match]
    return _as_edits(left.take(at_old), column(arrived, "uri").take(at_new))


def _as_edits(rows: pa.Table, new_uris: pa.Array | None = None) -> pa.Table:
    new_uris = pa.nulls(len(rows), pa.string()) if new_uris is None else new_uris
    columns = [column(rows, "uri"), column(rows, "shard"), new_uris]
    return pa.table(columns, schema=schema.EDITS)


def _look_up(photo_ids: pa.Table, rows: pa.Table) -> pa.Array:
    """(n,) string: the photo_id of each row's URI, null for none."""
    at = pc.index_in(column(rows, "uri"), column(photo_ids, "uri"))
    return column(photo_ids, "photo_id").take(at)


def _pairs(rows: pa.Table) -> pa.Array:
    """(n,) 16 bytes: size and version, of a null its value in memory."""
    pairs = np.empty((len(rows), 2), np.int64)
    for i, name in enumerate(("size", "version")):
        pairs[:, i] = pc.fill_null(column(rows, name), 0).to_numpy(zero_copy_only=False)
    return pa.Array.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(pairs)])


def _and(*flags: pa.Array | pa.ChunkedArray) -> pa.Array:
    both = pc.and_(*flags)
    return both.combine_chunks() if isinstance(both, pa.ChunkedArray) else both
