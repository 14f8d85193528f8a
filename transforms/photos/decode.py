"""The decode step: photos' bytes to pixels, in a process of its own beside each worker."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import apache_beam as beam

from facecluster.transforms.metrics import count, timed
from facecluster.transforms.photos.decode_image import DecodedImage, decode_image
from facecluster.transforms.photos.decoder_process import DecoderProcess
from facecluster.transforms.photos.limits import DecodeLimits
from facecluster.transforms.photos.perceptual_hash import perceptual_hash
from facecluster.transforms.records import Photo, step


@dataclass(eq=False)
class DecodePhotos(beam.PTransform):
    """Decodes photos. One that crashes or hangs its decoder becomes a failure like any other.

    Element in: a `Photo` with its content, as `ReadPhotos` yields it.
    Element out: the `Photo` with image, width, height, taken_at, n_frames, damaged and
    perceptual_hash, without the content; or with its failure.

    Reports the counter `photos_decoded` and the distribution `decode_milliseconds`.

    Attributes:
      limits: what a photo may cost.
    """

    limits: DecodeLimits = field(default_factory=DecodeLimits)

    def expand(self, photos: beam.PCollection[Photo]) -> beam.PCollection[Photo]:
        return photos | beam.ParDo(_DecodePhoto(self.limits))  # pyright: ignore[reportReturnType]


class _DecodePhoto(beam.DoFn):
    def __init__(self, limits: DecodeLimits):
        self.limits = limits

    def setup(self):
        self.decoder = DecoderProcess(self.limits)

    def process(self, photo: Photo) -> Iterator[Photo]:
        if not photo.failure:
            with timed("decode"):
                photo = decode_photo(photo, self.decoder.decode)
            if not photo.failure:
                count("photos_decoded")
        yield photo

    def teardown(self):
        self.decoder.close()


@step("decode")
def decode_photo(photo: Photo, decode: Callable[[bytes], DecodedImage] = decode_image) -> Photo:
    """Fills in what the file holds and the perceptual hash, and drops the content."""
    assert photo.content is not None
    image, (width, height), taken_at, n_frames, damaged = decode(photo.content)
    return replace(
        photo, content=None, image=image, width=width, height=height,
        taken_at=taken_at, n_frames=n_frames, damaged=damaged,
        perceptual_hash=perceptual_hash(image),
    )  # fmt: skip
