"""One face detector in a process of its own; throughput.py starts it, alone or one a core.

    detector_worker.py NAME THREADS MIN_FACE_SIZE < names of photos

Says `ready` when it is warm, waits for a line on stdin, then prints as JSON: seconds, photos whose
labelled face was found (a box holds the photo's centre), boxes. Needs of facecluster only what the
detector does, so that facenet-pytorch can run in an environment of its own.
"""

import json
import sys
import time

from PIL import Image


def main():
    name, threads, min_face_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    paths = json.loads(sys.stdin.readline())
    images = [Image.open(path).convert("RGB") for path in paths]
    detect = DETECTORS[name](threads, min_face_size)
    detect(images[:32])
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    found = detect(images)
    seconds = time.perf_counter() - started
    labelled = 0
    for boxes, image in zip(found, images):  # noqa: B905  not every peer's Python knows strict
        labelled += any(holds_centre(box, image) for box in boxes)
    print(json.dumps([seconds, labelled, sum(map(len, found))]))


def holds_centre(box, image):
    x, y = image.width / 2, image.height / 2
    return bool(box[0] < x < box[2] and box[1] < y < box[3])


def facecluster(threads, min_face_size):
    from facecluster.model_export.weights import zoo
    from facecluster.pipeline.options import EmbedOptions
    from facecluster.transforms.faces.detect import PHOTOS_PER_BATCH, Detector
    from facecluster.transforms.faces.saved_model import SavedModel

    model = SavedModel(str(zoo.fetch(EmbedOptions.detector)), threads)
    detector = Detector(model, min_face_size, EmbedOptions.detection_size)

    def detect(images):
        starts = range(0, len(images), PHOTOS_PER_BATCH)
        batches = (detector.detect(images[start : start + PHOTOS_PER_BATCH]) for start in starts)
        return [found.boxes for batch in batches for found in batch]

    return detect


def mtcnn(threads, min_face_size):
    import numpy as np
    import tensorflow as tf
    from mtcnn import MTCNN

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    detector = MTCNN()

    def one(image):
        faces = detector.detect_faces(
            np.asarray(image), min_face_size=min_face_size, box_format="xyxy"
        )
        return [face["box"] for face in faces]

    return lambda images: [one(image) for image in images]


def facenet_pytorch(threads, min_face_size):
    import torch
    from facenet_pytorch import MTCNN

    torch.set_num_threads(threads)
    detector = MTCNN(keep_all=True, min_face_size=min_face_size)

    def one(image):
        boxes, _ = detector.detect(image)
        return [] if boxes is None else boxes

    return lambda images: [one(image) for image in images]


DETECTORS = {"facecluster": facecluster, "mtcnn": mtcnn, "facenet-pytorch": facenet_pytorch}

if __name__ == "__main__":
    main()
