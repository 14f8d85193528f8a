# isort: skip_file
"""The public names of facecluster, grouped as docs/api.md shows them."""

# Jobs
from .pipeline.api import (
    Progress as Progress,
    cluster as cluster,
    crops as crops,
    embed as embed,
    evaluate_pairs as evaluate_pairs,
    evaluate_people as evaluate_people,
    run as run,
)
from .pipeline.sample_photos import fetch_sample_photos as fetch_sample_photos

# Options
from .pipeline.options import (
    CropOptions as CropOptions,
    EmbedOptions as EmbedOptions,
    WorkerOptions as WorkerOptions,
)
from .transforms.grouping.options import ClusterOptions as ClusterOptions

# Results
from .pipeline.run.results import Run as Run

# Your own vectors and photos
from .model_export.face_model import FaceModel as FaceModel, load_model as load_model
from .transforms.faces.detect import Detections as Detections
from .transforms.grouping.estimator import FaceClusterer as FaceClusterer
from .transforms.similarity.cohort import Cohort as Cohort

# Beam transforms
from .transforms.faces.align import AlignFaces as AlignFaces
from .transforms.faces.detect import DetectFaces as DetectFaces
from .transforms.faces.embed import EmbedFaces as EmbedFaces
from .transforms.faces.saved_model import SavedModel as SavedModel
from .transforms.photos.decode import DecodePhotos as DecodePhotos
from .transforms.photos.limits import DecodeLimits as DecodeLimits
from .transforms.photos.read import ReadPhotos as ReadPhotos
from .transforms.photos.shards import read_tasks as read_tasks
from .transforms.photos.write import ShardWriter as ShardWriter, WriteShards as WriteShards
from .transforms.records import Face as Face, Failure as Failure, Photo as Photo, Shard as Shard

# Errors
from .errors import (
    FaceclusterError as FaceclusterError,
    InputError as InputError,
    JobError as JobError,
    UsageError as UsageError,
)

__version__: str
