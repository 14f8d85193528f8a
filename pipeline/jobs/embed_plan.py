"""The plan of a run, which assigns inputs to shards, so that a continued job has the same shards.

RUN/plan.parquet has a row for each input, in the order in which inputs were added to the run. An
input that is retried has two rows: one for the shard in which it failed and, after it, one for its
new shard. When the new shard is complete, the failure is deleted from the old one, then its row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.pipeline.run.directory import PLAN_NAME, RunDirectory
from facecluster.transforms.inputs.listing import Listing
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.photos.shards import split_into_shards
from facecluster.transforms.records import Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.parquet_files import read_table, write_table

# A failure in this step may not occur again: a disk was not mounted, or a permission was missing.
# What cannot be decoded once can never be.
TRANSIENT_STEP = "read"


@dataclass(frozen=True)
class EmbedPlan:
    """The inputs of a run and their shards.

    Attributes:
      run: the run.
      rows: columns uri and shard; of several rows of a URI the last counts, and a shard's rows are
        contiguous.
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

    def unfinished_uris(self, sources: Sequence[Source]) -> pa.Array:
        """The URIs of the sources that are in no complete shard."""
        uris = uris_of(sources)
        done = self.rows["uri"].filter(_in(self.rows["shard"], self.complete))
        return uris.filter(_not(_in(uris, done)))

    def count_missing(self, listing: Listing) -> int:
        """The number of inputs of incomplete shards that the listing lacks."""
        current = replace(self, rows=self.rows.filter(pa.array(~self._superseded())))
        listed = pa.concat_arrays([uris_of(listing.sources), _fully_listed(listing)])
        return pc.sum(_not(_in(current._pending(), listed))).as_py() or 0

    def final_failures(self, listing: Listing) -> pa.Table:
        """The failures that are neither retried by a pending shard nor repaired."""
        failures, _ = self.run.read_shards(
            "failures", schema.FAILURES.names, self.complete.to_pylist()
        )
        leaving = pa.concat_arrays([self._pending(), _fully_listed(listing)])
        return failures.filter(_not(_in(failures["uri"], leaving)))

    def without_superseded(self) -> "EmbedPlan":
        """Drops failures whose input is in a later shard that is complete.

        They are deleted from the tables, then from the plan. If this is interrupted, calling it
        again finishes it.
        """
        return self._without(pa.array(self._superseded()))

    def without_repaired(self, listing: Listing) -> "EmbedPlan":
        """Drops failures of containers, lists and folders that were listed completely this time.

        Call it when all their photos are done: if the job is killed before, the failures are what
        makes the next job list them again.
        """
        repaired = _in(self.rows["uri"].combine_chunks(), _fully_listed(listing))
        shards = pc.unique(self.rows["shard"].filter(repaired))
        shards = shards.filter(_in(shards, self.complete)).to_pylist()
        photos, _ = self.run.read_shards("photos", ["uri"], shards)
        was_read = _in(self.rows["uri"].combine_chunks(), photos["uri"])
        return self._without(pc.and_(repaired, _not(was_read)))

    def with_inputs(
        self, listing: Listing, photos_per_shard: Callable[[int], int], retry_all: bool
    ) -> "EmbedPlan":
        """Adds shards for inputs that are new or retried, and saves the plan.

        An incomplete shard stays as it is, unless some of its inputs are missing. Then its other
        inputs are treated as new.

        Args:
          listing: all inputs.
          photos_per_shard: gives the size of the shards for a number of inputs.
          retry_all: whether to retry all failures, and not only those of TRANSIENT_STEP.
        """
        sources = listing.sources
        listed = uris_of(sources)
        pending = _not(_in(self.rows["shard"], self.complete))
        missing = pc.and_(pending, _not(_in(self.rows["uri"], listed)))
        broken = pc.unique(self.rows["shard"].filter(missing))
        plan = replace(self, rows=self.rows.filter(_not(_in(self.rows["shard"], broken))))

        new = _not(_in(listed, plan.rows["uri"]))
        retried = pc.and_(_in(listed, plan._failed(retry_all)), _not(_in(listed, plan._pending())))
        for chosen in (new, retried):
            indices = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
            part = [sources[i] for i in indices.tolist()]
            plan = plan._with_shards(part, photos_per_shard(len(part)))
        if not plan.rows.equals(self.rows) or not FileSystems.exists(self.run.path(PLAN_NAME)):
            plan.save()
        return plan

    def pending_shards(self, sources: Sequence[Source]) -> list[tuple[Shard, tuple[Source, ...]]]:
        """The incomplete shards with their inputs."""
        pending = self.rows.filter(_not(_in(self.rows["shard"], self.complete)))
        at = pc.index_in(pending["uri"], uris_of(sources)).to_pylist()
        shards = []
        for name, rows in groupby(
            zip(pending["shard"].to_pylist(), at, strict=True), key=lambda row: row[0]
        ):
            part = tuple(sources[i] for _, i in rows)
            shards.append((Shard(name, len(part)), part))
        return shards

    def _without(self, rows: pa.Array) -> "EmbedPlan":
        """Deletes the failures of some rows from the tables, then the rows from the plan."""
        if not pc.any(rows).as_py():
            return replace(self, complete=self._without_empty_shards(self.rows))
        old, kept = self.rows.filter(rows), self.rows.filter(_not(rows))
        for shard in pc.unique(old["shard"].filter(_in(old["shard"], self.complete))).to_pylist():
            of_shard = old["uri"].filter(pc.equal(old["shard"], shard))
            self._remove_failures(shard, of_shard)
        plan = replace(self, rows=kept, complete=self._without_empty_shards(kept))
        plan.save()
        return plan

    def _with_shards(self, sources: Sequence[Source], photos_per_shard: int) -> "EmbedPlan":
        """Splits inputs into shards and appends their rows."""
        taken = set(pc.unique(self.rows["shard"]).to_pylist()) | set(self.complete.to_pylist())
        uris, names, sizes = [], [], []
        for shard, part in split_into_shards(sources, photos_per_shard):
            name, attempt = shard.name, 1
            while name in taken:  # by an earlier attempt at the same inputs
                attempt += 1
                name = f"{shard.name}-{attempt}"
            taken.add(name)
            uris.append(uris_of(part))
            names.append(name)
            sizes.append(len(part))
        if not uris:
            return self
        shards = pa.array(names, pa.string()).take(
            pa.array(np.repeat(np.arange(len(sizes)), sizes))
        )
        return replace(self, rows=_append(self.rows, pa.concat_arrays(uris), shards))

    def _superseded(self) -> np.ndarray:
        """(n_rows,) bool: whether a later row of the same URI has a complete shard."""
        rows = self.rows.append_column("at", pa.array(np.arange(len(self.rows))))
        done = rows.filter(_in(rows["shard"], self.complete))
        last = done.group_by("uri", use_threads=False).aggregate([("at", "max")])
        last_done = pc.fill_null(
            last["at_max"]
            .combine_chunks()
            .take(pc.index_in(rows["uri"], last["uri"].combine_chunks())),
            -1,
        )
        return np.arange(len(rows)) < _numpy(last_done)

    def _remove_failures(self, shard: str, uris: pa.ChunkedArray) -> None:
        path = self.run.shard_path("failures", shard)
        failures, _ = read_table([path], schema.FAILURES.names)
        left = failures.filter(_not(_in(failures["uri"], uris)))
        if len(left) < len(failures):
            write_table(path, left)

    def _without_empty_shards(self, rows: pa.Table) -> pa.Array:
        """Deletes complete shards without rows, and returns the other complete shards."""
        empty = self.complete.filter(_not(_in(self.complete, rows["shard"])))
        for shard in empty.to_pylist():
            self.run.remove_shard(shard)
        return self.complete.filter(_in(self.complete, rows["shard"]))

    def _failed(self, in_any_step: bool) -> pa.Array:
        failures, _ = self.run.read_shards("failures", ["uri", "step"], self.complete.to_pylist())
        if not in_any_step:
            failures = failures.filter(pc.equal(failures["step"], TRANSIENT_STEP))
        return failures["uri"].combine_chunks()

    def _pending(self) -> pa.Array:
        pending = _not(_in(self.rows["shard"], self.complete))
        return self.rows["uri"].filter(pending).combine_chunks()

    def _with_unplanned_shards(self) -> "EmbedPlan":
        """Adds the inputs of complete shards that the plan lacks, because the file was lost.

        If a URI is both a failure and a photo, the photo's row is last: it was read in a retry.
        """
        unknown = self.complete.filter(_not(_in(self.complete, self.rows["shard"]))).to_pylist()
        planned = self.rows.filter(_in(self.rows["shard"], self.complete))["uri"]
        uris, shards = [pa.array([], pa.string())], [pa.array([], pa.string())]
        for table in ("failures", "photos"):
            for shard in unknown:
                found, _ = self.run.read_shards(table, ["uri"], [shard])
                of_shard = found["uri"].combine_chunks()
                uris.append(of_shard.filter(_not(_in(of_shard, planned))))
                shards.append(pa.repeat(pa.scalar(shard, pa.string()), len(uris[-1])))
        rows = _append(self.rows, pa.concat_arrays(uris), pa.concat_arrays(shards))
        return replace(self, rows=rows)


def uris_of(sources: Sequence[Source]) -> pa.Array:
    """(n,) string: the URI of each input."""
    return pa.array([source.uri for source in sources], pa.string())


def _fully_listed(listing: Listing) -> pa.Array:
    """URIs of containers, lists and folders that were listed completely."""
    whole = pa.array(sorted(listing.fully_listed), pa.string())
    return whole.filter(_not(_in(whole, uris_of(listing.sources))))


def _append(rows: pa.Table, uris: pa.Array, shards: pa.Array) -> pa.Table:
    new = pa.table([uris, shards], names=schema.PLAN.names)
    return pa.concat_tables([rows.select(schema.PLAN.names).cast(new.schema), new]).combine_chunks()


def _in(values: pa.ChunkedArray | pa.Array, those: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(those, pa.ChunkedArray):
        those = those.combine_chunks()
    found = pc.is_in(values, value_set=those)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _not(flags: pa.Array) -> pa.Array:
    return pc.invert(flags)


def _numpy(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False)
