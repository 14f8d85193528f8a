"""The public names of facecluster."""

# Jobs
# Errors
from .errors import (
    FaceclusterError as FaceclusterError,
)
from .errors import (
    InputError as InputError,
)
from .errors import (
    JobError as JobError,
)
from .errors import (
    UsageError as UsageError,
)

# Vectors and photos of one's own
from .model_export.face_model import FaceModel as FaceModel
from .model_export.face_model import load_model as load_model
from .pipeline.api import (
    cluster as cluster,
)
from .pipeline.api import (
    crops as crops,
)
from .pipeline.api import (
    embed as embed,
)
from .pipeline.api import (
    evaluate_pairs as evaluate_pairs,
)
from .pipeline.api import (
    evaluate_people as evaluate_people,
)
from .pipeline.api import (
    run as run,
)
from .pipeline.options import (
    CropOptions as CropOptions,
)
from .pipeline.options import (
    EmbedOptions as EmbedOptions,
)
from .pipeline.options import (
    WorkerOptions as WorkerOptions,
)

# Results
from .pipeline.run.results import Run as Run

# Beam transforms and their elements
from .transforms.faces.detect import DetectFaces as DetectFaces
from .transforms.faces.detect import Detections as Detections
from .transforms.faces.saved_model import SavedModel as SavedModel
from .transforms.grouping.options import ClusterOptions as ClusterOptions
from .transforms.photos.decode import DecodePhotos as DecodePhotos
from .transforms.photos.read import ReadPhotos as ReadPhotos
from .transforms.photos.write import WriteShards as WriteShards
from .transforms.records import (
    Face as Face,
)
from .transforms.records import (
    Failure as Failure,
)
from .transforms.records import (
    Photo as Photo,
)
from .transforms.records import (
    Shard as Shard,
)

__version__: str
