"""Photos with their bytes into photos with their pixels, decoded apart from the worker."""

from collections.abc import Iterator

import apache_beam as beam

from facecluster.transforms.photos.decode import decode_photo
from facecluster.transforms.photos.decoder_process import DecodeLimits, DecoderProcess
from facecluster.transforms.records import Photo


class DecodePhotos(beam.PTransform):
    """From read photos to decoded ones; what crashes a decoder is a failure like others."""

    def __init__(self, limits: DecodeLimits):
        self.limits = limits

    def expand(self, photos):
        return photos | beam.ParDo(_DecodeFn(self.limits))


class _DecodeFn(beam.DoFn):
    def __init__(self, limits: DecodeLimits):
        self.limits = limits

    def setup(self):
        self.decoder = DecoderProcess(self.limits)

    def process(self, photo: Photo) -> Iterator[Photo]:
        yield decode_photo(photo, self.decoder.decode)

    def teardown(self):
        self.decoder.close()
