"""Measures one face detector in this process; throughput.py starts one worker, or one per core.

    detector_worker.py NAME THREADS MIN_FACE_SIZE < paths of the photos, as a JSON list in one line

Reads the photos, warms the detector up, prints `ready` and waits for a line on stdin. Then detects,
and prints as JSON: seconds, number of photos whose labeled face was found (a box contains the
photo's center), number of boxes. Each detector imports only what it needs, so that facenet-pytorch
can run in an environment without facecluster.
"""

import json
import sys
import time

from PIL import Image

WARM_UP_PHOTOS = 32


def main():
    name, threads, min_face_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    paths = json.loads(sys.stdin.readline())
    images = [Image.open(path).convert("RGB") for path in paths]
    detect = DETECTORS[name](threads, min_face_size)
    detect(images[:WARM_UP_PHOTOS])
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    detections = detect(images)
    seconds = time.perf_counter() - started
    n_found = 0
    for boxes, image in zip(detections, images):  # noqa: B905  Python 3.9 has no strict=
        n_found += any(contains_center(box, image) for box in boxes)
    print(json.dumps([seconds, n_found, sum(map(len, detections))]))


def contains_center(box, image):
    x, y = image.width / 2, image.height / 2
    return bool(box[0] < x < box[2] and box[1] < y < box[3])


def load_facecluster(threads, min_face_size):
    from facecluster.model_export.weights import zoo
    from facecluster.pipeline.options import EmbedOptions
    from facecluster.transforms.faces.detect import PHOTOS_PER_BATCH
    from facecluster.transforms.faces.mtcnn import Detector
    from facecluster.transforms.faces.saved_model import SavedModel

    model = SavedModel(str(zoo.fetch(EmbedOptions.detector)), threads)
    detector = Detector(model, min_face_size, EmbedOptions.detection_size)

    def detect(images):
        starts = range(0, len(images), PHOTOS_PER_BATCH)
        batches = (detector.detect(images[start : start + PHOTOS_PER_BATCH]) for start in starts)
        return [found.boxes for batch in batches for found in batch]

    return detect


def load_mtcnn(threads, min_face_size):
    import numpy as np
    import tensorflow as tf
    from mtcnn import MTCNN

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    detector = MTCNN()

    def detect(image):
        faces = detector.detect_faces(
            np.asarray(image), min_face_size=min_face_size, box_format="xyxy"
        )
        return [face["box"] for face in faces]

    return lambda images: [detect(image) for image in images]


def load_facenet_pytorch(threads, min_face_size):
    import torch
    from facenet_pytorch import MTCNN

    torch.set_num_threads(threads)
    detector = MTCNN(keep_all=True, min_face_size=min_face_size)

    def detect(image):
        boxes, _ = detector.detect(image)
        return [] if boxes is None else boxes

    return lambda images: [detect(image) for image in images]


DETECTORS = {
    "facecluster": load_facecluster,
    "mtcnn": load_mtcnn,
    "facenet-pytorch": load_facenet_pytorch,
}

if __name__ == "__main__":
    main()
