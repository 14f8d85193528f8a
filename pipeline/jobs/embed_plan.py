"""The plan of a run, which assigns inputs to shards, so that a continued job has the same shards.

RUN/plan.parquet has a row for each input, in the order in which inputs were added to the run. An
input that is embedded again, because it failed or has changed, has two rows: one for its old shard
and, after it, one for its new shard. When the new shard is complete, the input is deleted from the
tables of the old one, then its old row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.pipeline.jobs.shard_edits import (
    edit_shards,
    finish_edits,
    read_edits,
    write_edits,
)
from facecluster.pipeline.run.directory import PLAN_NAME, RunDirectory
from facecluster.transforms.inputs.listing import Listing, source_table
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.photos.shards import split_into_shards
from facecluster.transforms.records import Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.columns import column, is_in
from facecluster.transforms.tables.parquet_files import read_table, write_table

# A failure in this step may not occur again: a disk was not mounted, or a permission was missing.
# What cannot be decoded once can never be.
TRANSIENT_STEP = "read"
NO_VERSION = -1  # size and version of an input of which it is unknown what was embedded


@dataclass(frozen=True)
class EmbedPlan:
    """The inputs of a run and their shards.

    Attributes:
      run: the run.
      rows: columns uri, shard, size and version; of several rows of a URI the last counts, and the
        rows of an incomplete shard are contiguous.
      complete: (n_shards,) string, the shards whose tables are written.
    """

    run: RunDirectory
    rows: pa.Table
    complete: pa.Array

    @classmethod
    def load(cls, run: RunDirectory) -> "EmbedPlan":
        """Reads the plan of a run; complete shards that it lacks are added from the tables.

        Raises:
          TableError: the plan or a table is damaged or of another version.
        """
        path = run.path(PLAN_NAME)
        rows, _ = read_table(
            [path] if FileSystems.exists(path) else [], schema.PLAN.names, schema.PLAN
        )
        plan = cls(run, rows.combine_chunks(), pa.array(run.complete_shards(), pa.string()))
        return plan._with_unplanned_shards()

    def save(self) -> None:
        """Writes the plan into the run."""
        rows = self.rows.replace_schema_metadata(schema.stamped(schema.PLAN).metadata)
        write_table(self.run.path(PLAN_NAME), rows)

    @property
    def n_inputs(self) -> int:
        """The number of distinct inputs."""
        return pc.count_distinct(self.rows["uri"]).as_py()

    def held_rows(self) -> pa.Table:
        """The rows of inputs that are in a complete shard and are not to be embedded again."""
        held = pc.and_(self._is_last(), is_in(self.rows["shard"], self.complete))
        return self.rows.filter(held).combine_chunks()

    def unfinished_uris(self, listing: Listing) -> pa.Array:
        """The URIs of the listing that are in no complete shard."""
        uris = listed_uris(listing)
        done = self.rows["uri"].filter(is_in(self.rows["shard"], self.complete))
        return uris.filter(pc.invert(is_in(uris, done)))

    def count_missing(self, listing: Listing) -> int:
        """The number of inputs of incomplete shards that the listing lacks."""
        current = replace(self, rows=self.rows.filter(pa.array(~self._superseded())))
        listed = pa.concat_arrays([listed_uris(listing), _fully_listed(listing)])
        return pc.sum(pc.invert(is_in(current._pending(), listed))).as_py() or 0

    def final_failures(self, listing: Listing) -> pa.Table:
        """The failures that are neither retried by a pending shard nor repaired."""
        failures, _ = self.run.read_shards(
            "failures", schema.FAILURES.names, self.complete.to_pylist()
        )
        leaving = pa.concat_arrays([self._pending(), _fully_listed(listing)])
        return failures.filter(pc.invert(is_in(failures["uri"], leaving)))

    def without_superseded(self) -> "EmbedPlan":
        """Drops inputs from the shards they were in before, if a later shard of theirs is complete.

        They are deleted from the tables, then from the plan. If this is interrupted, calling it
        again finishes it.
        """
        return self._without(pa.array(self._superseded()))

    def without_repaired(self, listing: Listing) -> "EmbedPlan":
        """Drops failures of containers, lists and folders that were listed completely this time.

        Call it when all their photos are done: if the job is killed before, the failures are what
        makes the next job list them again.
        """
        repaired = is_in(column(self.rows, "uri"), _fully_listed(listing))
        shards = pc.unique(self.rows["shard"].filter(repaired))
        shards = shards.filter(is_in(shards, self.complete)).to_pylist()
        photos, _ = self.run.read_shards("photos", ["uri"], shards)
        was_read = is_in(column(self.rows, "uri"), photos["uri"])
        return self._without(pc.and_(repaired, pc.invert(was_read)))

    def with_edits(self, edits: pa.Table) -> "EmbedPlan":
        """Gives inputs of complete shards another URI, or removes them; see shard_edits.py."""
        if not len(edits):
            return self
        write_edits(self.run, edits)
        return self.with_edits_finished()

    def with_edits_finished(self) -> "EmbedPlan":
        """Does edits that were begun: in the tables, then in the plan."""
        edits = read_edits(self.run)
        if not len(edits):
            return self
        edit_shards(self.run, edits.filter(is_in(edits["shard"], self.complete)))
        at = pc.index_in(_keys(self.rows), _keys(edits).combine_chunks()).combine_chunks()
        new_uris = edits["new_uri"].combine_chunks().take(at)
        uris = pc.coalesce(new_uris, self.rows["uri"])
        stays = pc.or_(at.is_null(), new_uris.is_valid())
        rows = self.rows.set_column(0, schema.PLAN.field("uri"), uris).filter(stays)
        plan = replace(self, rows=rows, complete=self._without_empty_shards(rows))
        plan.save()
        finish_edits(self.run)
        return plan

    def without_broken_shards(self, listing: Listing) -> "EmbedPlan":
        """Drops incomplete shards of which some inputs are missing; the others count as new."""
        pending = pc.invert(is_in(self.rows["shard"], self.complete))
        missing = pc.and_(pending, pc.invert(is_in(self.rows["uri"], listed_uris(listing))))
        broken = pc.unique(self.rows["shard"].filter(missing))
        if not len(broken):
            return self
        plan = replace(self, rows=self.rows.filter(pc.invert(is_in(self.rows["shard"], broken))))
        plan.save()
        return plan

    def with_versions(self, listing: Listing, changed: pa.Array) -> "EmbedPlan":
        """Takes over sizes and versions from the listing, of all inputs but the changed ones.

        A changed input keeps those that its faces were made of, until it is in a new shard.
        """
        rows, listed = self.rows, listing.table
        at = pc.index_in(rows["uri"], listed["uri"].combine_chunks()).combine_chunks()
        is_current = pc.and_(self._is_last(), pc.invert(is_in(rows["uri"], changed)))
        at = pc.if_else(is_current, at, None)
        for name in ("size", "version"):
            values = pc.coalesce(listed[name].combine_chunks().take(at), rows[name])
            rows = rows.set_column(rows.schema.get_field_index(name), name, values)
        return replace(self, rows=rows.combine_chunks())

    def with_inputs(
        self,
        listing: Listing,
        photos_per_shard: Callable[[int], int],
        retry_all: bool,
        changed: pa.Array | None = None,
    ) -> "EmbedPlan":
        """Adds shards for inputs that are new, changed or retried, and saves the plan.

        An incomplete shard stays as it is, unless some of its inputs are missing. Then its other
        inputs are treated as new.

        Args:
          listing: all inputs.
          photos_per_shard: gives the size of the shards for a number of inputs.
          retry_all: whether to retry all failures, and not only those of TRANSIENT_STEP.
          changed: (n,) string, URIs of complete shards whose bytes are others now.
        """
        sources, listed = listing.sources, listed_uris(listing)
        changed = pa.array([], pa.string()) if changed is None else changed
        plan = self.without_broken_shards(listing).with_versions(listing, changed)
        new = pc.invert(is_in(listed, plan.rows["uri"]))
        again = pa.concat_arrays([plan._failed(retry_all), changed])
        again = pc.and_(is_in(listed, again), pc.invert(is_in(listed, plan._pending())))
        for chosen in (new, again):
            indices = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
            part = [sources[i] for i in indices.tolist()]
            plan = plan._with_shards(part, photos_per_shard(len(part)))
        if not plan.rows.equals(self.rows) or not FileSystems.exists(self.run.path(PLAN_NAME)):
            plan.save()
        return plan

    def pending_shards(self, listing: Listing) -> list[tuple[Shard, tuple[Source, ...]]]:
        """The incomplete shards with their inputs."""
        sources = listing.sources
        pending = self.rows.filter(pc.invert(is_in(self.rows["shard"], self.complete)))
        at = pc.index_in(pending["uri"], listed_uris(listing)).to_pylist()
        shards = []
        for name, rows in groupby(
            zip(pending["shard"].to_pylist(), at, strict=True), key=lambda row: row[0]
        ):
            part = tuple(sources[i] for _, i in rows)
            shards.append((Shard(name, len(part)), part))
        return shards

    def _without(self, rows: pa.Array) -> "EmbedPlan":
        """Deletes the inputs of some rows from the tables, then the rows from the plan."""
        if not pc.any(rows).as_py():
            return replace(self, complete=self._without_empty_shards(self.rows))
        old, kept = self.rows.filter(rows), self.rows.filter(pc.invert(rows))
        # A shard that keeps no input is deleted as a whole.
        edited = pc.and_(is_in(old["shard"], self.complete), is_in(old["shard"], kept["shard"]))
        edits = old.select(["uri", "shard"]).filter(edited)
        edits = edits.append_column("new_uri", pa.nulls(len(edits), pa.string()))
        edit_shards(self.run, edits)
        plan = replace(self, rows=kept, complete=self._without_empty_shards(kept))
        plan.save()
        return plan

    def _with_shards(self, sources: Sequence[Source], photos_per_shard: int) -> "EmbedPlan":
        """Splits inputs into shards and appends their rows."""
        taken = set(pc.unique(self.rows["shard"]).to_pylist()) | set(self.complete.to_pylist())
        parts, names, sizes = [], [], []
        for shard, part in split_into_shards(sources, photos_per_shard):
            name, attempt = shard.name, 1
            while name in taken:  # by an earlier attempt at the same inputs
                attempt += 1
                name = f"{shard.name}-{attempt}"
            taken.add(name)
            parts.append(source_table(part))
            names.append(name)
            sizes.append(len(part))
        if not parts:
            return self
        shards = pa.array(names, pa.string()).take(
            pa.array(np.repeat(np.arange(len(sizes)), sizes))
        )
        new = pa.concat_tables(parts).append_column("shard", shards)
        return replace(self, rows=_append(self.rows, new))

    def _is_last(self) -> pa.Array:
        """(n_rows,) bool: whether no later row has the same URI."""
        rows = self.rows.select(["uri"]).append_column("at", pa.array(np.arange(len(self.rows))))
        last = rows.group_by("uri", use_threads=False).aggregate([("at", "max")])
        is_last = np.zeros(len(self.rows), bool)
        is_last[_numpy(last["at_max"])] = True
        return pa.array(is_last)

    def _superseded(self) -> np.ndarray:
        """(n_rows,) bool: whether a later row of the same URI has a complete shard."""
        rows = self.rows.append_column("at", pa.array(np.arange(len(self.rows))))
        done = rows.filter(is_in(rows["shard"], self.complete))
        last = done.group_by("uri", use_threads=False).aggregate([("at", "max")])
        last_done = pc.fill_null(
            last["at_max"]
            .combine_chunks()
            .take(pc.index_in(rows["uri"], last["uri"].combine_chunks())),
            -1,
        )
        return np.arange(len(rows)) < _numpy(last_done)

    def _without_empty_shards(self, rows: pa.Table) -> pa.Array:
        """Deletes complete shards without rows, and returns the other complete shards."""
        empty = self.complete.filter(pc.invert(is_in(self.complete, rows["shard"])))
        for shard in empty.to_pylist():
            self.run.remove_shard(shard)
        return self.complete.filter(is_in(self.complete, rows["shard"]))

    def _failed(self, in_any_step: bool) -> pa.Array:
        failures, _ = self.run.read_shards("failures", ["uri", "step"], self.complete.to_pylist())
        if not in_any_step:
            failures = failures.filter(pc.equal(failures["step"], TRANSIENT_STEP))
        return column(failures, "uri")

    def _pending(self) -> pa.Array:
        pending = pc.invert(is_in(self.rows["shard"], self.complete))
        return self.rows["uri"].filter(pending).combine_chunks()

    def _with_unplanned_shards(self) -> "EmbedPlan":
        """Adds the inputs of complete shards that the plan lacks, because the file was lost.

        If a URI is both a failure and a photo, the photo's row is last: it was read in a retry. If
        it is a photo in two shards, either may be the newer one, so that it counts as changed.
        """
        is_unknown = pc.invert(is_in(self.complete, self.rows["shard"]))
        unknown = self.complete.filter(is_unknown).to_pylist()
        planned = self.rows.filter(is_in(self.rows["shard"], self.complete))["uri"]
        rows = self.rows
        for table in ("failures", "photos"):
            parts = [schema.PLAN.empty_table()]
            for shard in unknown:
                uris = column(self.run.read_shards(table, ["uri"], [shard])[0], "uri")
                parts.append(_unversioned_rows(uris.filter(pc.invert(is_in(uris, planned))), shard))
            found = pa.concat_tables(parts)
            if table == "photos":
                counts = pc.value_counts(found["uri"])
                twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
                versions = pc.if_else(is_in(found["uri"], twice), NO_VERSION, None)
                for name in ("size", "version"):
                    index = found.schema.get_field_index(name)
                    found = found.set_column(index, name, versions.cast(pa.int64()))
            rows = _append(rows, found)
        return replace(self, rows=rows)


def listed_uris(listing: Listing) -> pa.Array:
    """(n,) string: the URI of each input."""
    return column(listing.table, "uri")


def _fully_listed(listing: Listing) -> pa.Array:
    """URIs of containers, lists and folders that were listed completely."""
    whole = pa.array(sorted(listing.fully_listed), pa.string())
    return whole.filter(pc.invert(is_in(whole, listed_uris(listing))))


def _unversioned_rows(uris: pa.Array, shard: str) -> pa.Table:
    names = pa.repeat(pa.scalar(shard, pa.string()), len(uris))
    unknown = pa.nulls(len(uris), pa.int64())
    return pa.table([uris, names, unknown, unknown], schema=schema.PLAN)


def _append(rows: pa.Table, new: pa.Table) -> pa.Table:
    parts = [part.select(schema.PLAN.names).cast(schema.PLAN) for part in (rows, new)]
    return pa.concat_tables(parts).combine_chunks()


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    """(n,) string that identifies an input in a shard."""
    return pc.binary_join_element_wise(rows["uri"], rows["shard"], "\0")


def _numpy(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False)
