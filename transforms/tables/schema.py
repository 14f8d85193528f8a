"""The tables of a run as pyarrow schemas: what a row is, and the unit of each column."""

import json
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3
METADATA_KEY = b"facecluster"

# A photo that was read. photo_id is the SHA-256 of the file's bytes, the same under any name;
# width and height are pixels of the upright photo (EXIF orientation applied).
PHOTOS = pa.schema(
    [
        pa.field("photo_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        # EXIF local time, without a time zone. Whole seconds; Parquet has no coarser unit.
        pa.field("taken_at", pa.timestamp("ms")),
        # Frames of an animation or pages of a document; the first is used.
        pa.field("n_frames", pa.int32(), nullable=False),
        # Some pixels are made up: the file lacks them, and its decoder conceals that.
        pa.field("damaged", pa.bool_(), nullable=False),
        pa.field("n_faces", pa.int32(), nullable=False),
        pa.field("perceptual_hash", pa.int64()),  # null: too little structure
    ]
)

# A photo that shows the same picture as another: saved again, reduced, slightly cropped. An
# original is never in the first column; distance counts the bits in which the perceptual hashes
# differ.
NEAR_DUPLICATES = pa.schema(
    [
        pa.field("photo_id", pa.string(), nullable=False),
        pa.field("original_photo_id", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
    ]
)

# An input that could not be used: which step refused it, and why.
FAILURES = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)

# The shard that an input is in. Of several rows with one URI the last counts (see embed_plan.py).
# size and version tell whether the input has changed since (see `Source`); null if unknown.
PLAN = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("version", pa.int64()),
    ]
)

# A change of complete shards that is under way: the input's rows leave the shard or, with a
# new_uri, get that URI (see shard_edits.py).
EDITS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("new_uri", pa.string()),
    ]
)

# The photo_id of an input as it is now; null if it cannot be read.
PHOTO_IDS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("photo_id", pa.string()),
    ]
)

# The quality of a face (see quality.py): px, fractions, degrees.
QUALITY_COLUMNS = ("size_px", "sharpness", "brightness", "yaw", "pitch", "roll")

# A person. size counts faces, n_photos the photos, of which those of one shot count once (see
# shots.py). representative_face_id is the face nearest to the mean direction.
# confidence is the mean of the faces' probabilities. spread is the root mean square of the
# Euclidean distances between any two of the faces' unit vectors.
PEOPLE = pa.schema(
    [
        pa.field("person_id", pa.string(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("n_photos", pa.int32(), nullable=False),
        pa.field("representative_face_id", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("spread", pa.float32(), nullable=False),
    ]
)

# A face's person: one row per face, person_id null for an unassigned face. probability, in [0, 1],
# is that the face shows this person, 0 for an unassigned face; distance is the Euclidean distance
# from the face's unit vector to its person's mean direction (null if unassigned).
# repeated_in_photo: another face in its photo is so similar that both count as one person (a
# mirror, a face detected twice), where two faces in a photo are otherwise two people. left_out: why
# the face was not grouped (see face_filter.py), null for a face that was.
ASSIGNMENTS = pa.schema(
    [
        pa.field("face_id", pa.string(), nullable=False),
        pa.field("photo_id", pa.string(), nullable=False),
        pa.field("person_id", pa.string()),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("distance", pa.float32()),
        pa.field("repeated_in_photo", pa.bool_(), nullable=False),
        pa.field("left_out", pa.string()),
    ]
)


def faces(embedding: pa.DataType) -> pa.Schema:
    """A detected face.

    face_id is the photo_id and the face's index in the photo, so it stays the same between runs.
    box is x0 y0 x1 y1, cut off at the photo's edges, and landmarks are x y of left eye, right eye,
    nose, left and right mouth corner (left as seen in the picture), which may lie outside the
    photo, all in pixels of the upright photo. turn is by how many degrees clockwise the photo has
    to be turned for the face to be upright: 0, 90, 180 or 270; left and right are as seen then.
    size_px to roll are the quality columns. thumbnail is a JPEG of the aligned face.

    Args:
      embedding: the column type of the embedding, see `Codec.column_type`.
    """
    return pa.schema(
        [
            pa.field("face_id", pa.string(), nullable=False),
            pa.field("photo_id", pa.string(), nullable=False),
            pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
            pa.field("landmarks", pa.list_(pa.float32(), 10), nullable=False),
            pa.field("turn", pa.int16(), nullable=False),
            pa.field("detection_score", pa.float32(), nullable=False),
            *(pa.field(name, pa.float32(), nullable=False) for name in QUALITY_COLUMNS),
            pa.field("thumbnail", pa.binary(), nullable=False),
            pa.field("embedding", embedding, nullable=False),
        ]
    )


def face_id(photo_id: str, index: int) -> str:
    """The id of the face with this index in a photo."""
    return f"{photo_id}-{index:03d}"


def stamped(schema: pa.Schema, **metadata: Any) -> pa.Schema:
    """The schema with its version and `metadata` (model hash, codec) as the file's metadata."""
    stamp = {"schema_version": SCHEMA_VERSION, **metadata}
    return schema.with_metadata({METADATA_KEY: json.dumps(stamp, sort_keys=True).encode()})


def stamp_of(schema: pa.Schema) -> dict[str, Any]:
    """The metadata that `stamped` added; an empty dict if the file is not facecluster's."""
    return json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
