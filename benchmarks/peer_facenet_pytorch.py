"""facenet-pytorch's MTCNN on the photos that stdin names; runs in an environment of its own.

Prints [photos/s, labelled faces found, boxes] as JSON; see throughput.py, which calls it.
"""

import json
import sys
import time

from facenet_pytorch import MTCNN
from PIL import Image

min_face_size = int(sys.argv[1])
images = [Image.open(path.strip()).convert("RGB") for path in sys.stdin if path.strip()]
detector = MTCNN(keep_all=True, min_face_size=min_face_size)
detector.detect(images[0])
started = time.perf_counter()
found = [detector.detect(image)[0] for image in images]
rate = len(images) / (time.perf_counter() - started)
labelled = boxes = 0
for image, its_boxes in zip(images, found):  # noqa: B905  this runs on older Pythons too
    its_boxes = [] if its_boxes is None else its_boxes
    boxes += len(its_boxes)
    x, y = image.width / 2, image.height / 2
    labelled += any(b[0] < x < b[2] and b[1] < y < b[3] for b in its_boxes)
print(json.dumps([rate, labelled, boxes]))
