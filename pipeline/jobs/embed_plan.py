"""Which input is in which shard: kept in the run, so that a job that goes on has the same shards.

RUN/plan.parquet has a row for each input, in the order in which inputs came to the run. An input
that is tried again has two rows: that of the shard where it failed and, behind it, that of the
shard it is in now. Once the second shard is complete, the failure leaves the first, then its row.
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


@dataclass(frozen=True)
class EmbedPlan:
    """The inputs of a run and their shards.

    Attributes:
      run: the run.
      rows: (uri, shard), later rows of a URI in place of earlier ones; a shard's rows are together.
      complete: (n_shards,) string, the shards whose tables are written.
    """

    run: RunDirectory
    rows: pa.Table
    complete: pa.Array

    @classmethod
    def of(cls, run: RunDirectory) -> "EmbedPlan":
        """The plan that a run keeps; what no plan tells of is found in the tables.

        Raises:
          TableError: the plan or a table is damaged or of another version.
        """
        path = run.path(PLAN_NAME)
        rows, _ = read_table(
            [path] if FileSystems.exists(path) else [], schema.PLAN.names, schema.PLAN
        )
        plan = cls(run, rows.combine_chunks(), pa.array(run.complete_shards(), pa.string()))
        return plan._with_unplanned()

    def save(self) -> None:
        rows = self.rows.replace_schema_metadata(schema.stamped(schema.PLAN).metadata)
        write_table(self.run.path(PLAN_NAME), rows)

    @property
    def n_inputs(self) -> int:
        return pc.count_distinct(self.rows["uri"]).as_py()

    def unread(self, sources: Sequence[Source]) -> pa.Array:
        """The URIs of sources that are in no complete shard."""
        uris = uris_of(sources)
        done = self.rows["uri"].filter(_in(self.rows["shard"], self.complete))
        return uris.filter(_not(_in(uris, done)))

    def n_gone(self, listing: Listing) -> int:
        """Inputs in shards that are not complete, which the listing does not have any more."""
        current = replace(self, rows=self.rows.filter(pa.array(~self._superseded())))
        listed = pa.concat_arrays([uris_of(listing.sources), _mended(listing)])
        return pc.sum(_not(_in(current._pending(), listed))).as_py() or 0

    def failures_that_stay(self, listing: Listing) -> pa.Table:
        """The failures that no pending shard is about to try again, and that are not mended."""
        failures, _ = self.run.read_shards(
            "failures", schema.FAILURES.names, self.complete.to_pylist()
        )
        going = pa.concat_arrays([self._pending(), _mended(listing)])
        return failures.filter(_not(_in(failures["uri"], going)))

    def settled(self) -> "EmbedPlan":
        """The plan without failures that a later, complete shard has in their place.

        They leave the tables first. Killed in between, another call does the rest.
        """
        return self._without(pa.array(self._superseded()))

    def without_mended(self, listing: Listing) -> "EmbedPlan":
        """The plan without failures of what could be listed to its end this time.

        To be called when all photos of it are done: until then a killed job needs them, to be
        tried again.
        """
        mended = _in(self.rows["uri"].combine_chunks(), _mended(listing))
        shards = pc.unique(self.rows["shard"].filter(mended))
        shards = shards.filter(_in(shards, self.complete)).to_pylist()
        photos, _ = self.run.read_shards("photos", ["uri"], shards)
        was_read = _in(self.rows["uri"].combine_chunks(), photos["uri"])
        return self._without(pc.and_(mended, _not(was_read)))

    def with_inputs(
        self, listing: Listing, photos_per_shard: Callable[[int], int], retry_all: bool
    ) -> "EmbedPlan":
        """The plan, saved, with shards for inputs that are new or to be tried again.

        A shard that is not complete stays as it is, unless some of its inputs are not among the
        sources any more. Then the others are as good as new.

        Args:
          listing: all inputs.
          photos_per_shard: from a number of inputs to the size of their shards.
          retry_all: whether to try all failures again, and not only those in reading.
        """
        sources = listing.sources
        listed = uris_of(sources)
        pending = _not(_in(self.rows["shard"], self.complete))
        gone = pc.and_(pending, _not(_in(self.rows["uri"], listed)))
        broken = pc.unique(self.rows["shard"].filter(gone))
        plan = replace(self, rows=self.rows.filter(_not(_in(self.rows["shard"], broken))))

        again = pc.and_(_in(listed, plan._failed(retry_all)), _not(_in(listed, plan._pending())))
        for chosen in (_not(_in(listed, plan.rows["uri"])), again):
            indices = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
            part = [sources[i] for i in indices.tolist()]
            plan = plan._with_shards(part, photos_per_shard(len(part)))
        if not plan.rows.equals(self.rows) or not FileSystems.exists(self.run.path(PLAN_NAME)):
            plan.save()
        return plan

    def todo(self, sources: Sequence[Source]) -> list[tuple[Shard, tuple[Source, ...]]]:
        """The shards that are not complete, with their inputs."""
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
        """The plan without some rows, which are of failures; these leave the tables first."""
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
        """The plan with inputs cut into shards behind its rows; the spot where shards are made."""
        taken = set(pc.unique(self.rows["shard"]).to_pylist()) | set(self.complete.to_pylist())
        uris, names, sizes = [], [], []
        for shard, part in split_into_shards(sources, photos_per_shard):
            name, attempt = shard.name, 1
            while name in taken:  # by the same inputs, when they were tried before
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
        return replace(self, rows=_behind(self.rows, pa.concat_arrays(uris), shards))

    def _superseded(self) -> np.ndarray:
        """(n_rows,) bool: whether a later row of the URI has a complete shard."""
        rows = self.rows.append_column("at", pa.array(np.arange(len(self.rows))))
        done = rows.filter(_in(rows["shard"], self.complete))
        last = done.group_by("uri", use_threads=False).aggregate([("at", "max")])
        behind = pc.fill_null(
            last["at_max"]
            .combine_chunks()
            .take(pc.index_in(rows["uri"], last["uri"].combine_chunks())),
            -1,
        )
        return np.arange(len(rows)) < _numpy(behind)

    def _remove_failures(self, shard: str, uris: pa.ChunkedArray) -> None:
        path = self.run.shard_path("failures", shard)
        failures, _ = read_table([path], schema.FAILURES.names)
        left = failures.filter(_not(_in(failures["uri"], uris)))
        if len(left) < len(failures):
            write_table(path, left)

    def _without_empty_shards(self, rows: pa.Table) -> pa.Array:
        """Deletes complete shards that no input is in any more, and returns the others."""
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

    def _with_unplanned(self) -> "EmbedPlan":
        """The plan with the inputs of complete shards that it does not know, as when it was lost.

        A photo goes behind a failure of the same URI: it was read at last.
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
        rows = _behind(self.rows, pa.concat_arrays(uris), pa.concat_arrays(shards))
        return replace(self, rows=rows)


# A failure in this step may be gone at the next try: a disk that was not there, a permission. What
# cannot be decoded today cannot be tomorrow.
TRANSIENT_STEP = "read"


def uris_of(sources: Sequence[Source]) -> pa.Array:
    """(n,) string: the URI of each input."""
    return pa.array([source.uri for source in sources], pa.string())


def _mended(listing: Listing) -> pa.Array:
    """URIs of what is no input by itself, and was listed to its end; it may have failed before."""
    whole = pa.array(sorted(listing.fully_listed), pa.string())
    return whole.filter(_not(_in(whole, uris_of(listing.sources))))


def _behind(rows: pa.Table, uris: pa.Array, shards: pa.Array) -> pa.Table:
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
