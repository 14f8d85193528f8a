"""Groups the faces of a photo collection into people, offline and at scale.

    import facecluster

    run = facecluster.run("Pictures", "runs/pictures")
    run.people.to_pandas()

The public names are listed in __init__.pyi. Each is imported when it is first used, so that
`import facecluster` loads neither Beam nor TensorFlow.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("facecluster")
