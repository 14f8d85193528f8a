"""The detect step: the faces of photos, searched in batches of photos."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam

from facecluster.transforms.faces.mtcnn import Detections, Detector
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.metrics import count, timed
from facecluster.transforms.records import Face, Photo, failure_of, mark_failed

# The size of a batch of photos: at most this many, and fewer large ones.
PHOTOS_PER_BATCH = 32
BYTES_PER_BATCH = 256 << 20  # of decoded pixels


@dataclass(eq=False)
class DetectFaces(beam.PTransform):
    """Finds the faces of photos.

    Element in: a `Photo` with its image, as `DecodePhotos` yields it.
    Element out: the `Photo` with box, landmarks, score and turn of each face, in px of the image;
    or with its failure.

    Reports the counter `faces_found` and the distribution `detect_milliseconds` (of batches of
    photos).

    Attributes:
      model: the exported MTCNN.
      min_face_size: px, the smallest face to search for.
      detection_size: px, a photo whose longer side is larger is searched on a copy reduced to this,
        and the smallest face grows in proportion. The longer side of a panorama counts as twice its
        shorter side.
    """

    model: SavedModel
    min_face_size: int = 20
    detection_size: int = 1600

    def expand(self, photos: beam.PCollection[Photo]) -> beam.PCollection[Photo]:
        min_bytes_per_photo = BYTES_PER_BATCH // PHOTOS_PER_BATCH
        detector = Detector(self.model, self.min_face_size, self.detection_size)
        return (  # pyright: ignore[reportReturnType]
            photos
            | beam.BatchElements(
                min_batch_size=BYTES_PER_BATCH,
                max_batch_size=BYTES_PER_BATCH,
                element_size_fn=lambda photo: max(min_bytes_per_photo, _n_bytes(photo)),
            )
            | beam.ParDo(_DetectFn(detector))
        )


class _DetectFn(beam.DoFn):
    def __init__(self, detector: Detector):
        self.detector = detector

    def setup(self):
        self.detector.model.load()

    def process(self, photos: Sequence[Photo]) -> Iterable[Photo]:
        with timed("detect"):
            photos = detect_faces(self.detector, photos)
        count("faces_found", sum(len(photo.faces) for photo in photos))
        return photos


def detect_faces(detector: Detector, photos: Sequence[Photo]) -> list[Photo]:
    """Fills in the faces of photos. If that raises, it searches each photo alone.

    Raises:
      Exception: the detector raised for each of several photos, so the cause is not a photo.
    """
    usable = [photo for photo in photos if not photo.failure]
    try:
        done = _with_faces(detector, usable)
    except Exception as error:
        done = [_detect_alone(detector, photo) for photo in usable]
        if len(done) > 1 and all(photo.failure for photo in done):
            raise error
    return [*(photo for photo in photos if photo.failure), *done]


def _detect_alone(detector: Detector, photo: Photo) -> Photo:
    try:
        return _with_faces(detector, [photo])[0]
    except Exception as error:
        return mark_failed(photo, failure_of("detect", error))


def _with_faces(detector: Detector, photos: Sequence[Photo]) -> list[Photo]:
    images = [photo.image for photo in photos if photo.image is not None]
    detections: list[Detections] = detector.detect(images)
    return [
        replace(
            photo,
            faces=tuple(
                Face(box, landmarks, float(score), turn=int(turn))
                for box, landmarks, score, turn in zip(
                    found.boxes, found.landmarks, found.scores, found.turns, strict=True
                )
            ),
        )
        for photo, found in zip(photos, detections, strict=True)
    ]


def _n_bytes(photo: Photo) -> int:
    return 3 * photo.image.width * photo.image.height if photo.image else 0
