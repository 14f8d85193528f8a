"""The facecluster package; the same file is what Dataflow installs on its workers."""

from setuptools import find_packages, setup

setup(
    name="facecluster",
    version="0.1.0",
    description="Groups the faces of a photo collection into people, offline and at scale",
    license="MIT",
    python_requires=">=3.10,<3.13",
    package_dir={
        "": "."
    },  # makes an editable install a plain path, which editors and type checkers follow
    packages=find_packages(include=["facecluster", "facecluster.*"]),
    package_data={
        "facecluster": ["__init__.pyi", "py.typed"],
        "facecluster.pipeline.report": ["report.html.j2"],
        "facecluster.model_export.weights": ["published/*"],
    },
    # Ranges that work; constraints.txt holds the versions that were tested together. An upper bound
    # stands only where the next release is known to break something: facecluster calls private
    # functions of hdbscan and scikit-learn.
    install_requires=[
        "apache-beam>=2.70",
        "google-crc32c>=1.6",
        "hdbscan>=0.8.40,<0.9",
        "jinja2>=3.1",
        "joblib>=1.4",
        "lazy-loader>=0.4",
        "lz4>=4.3",
        "msgspec>=0.19",
        "numpy>=2.1",
        "pathspec>=1.0",
        "pillow>=11.3",
        "pillow-heif>=1.1",
        "protobuf>=5.29",
        "pyarrow>=18",
        "scikit-learn>=1.6,<1.10",
        "scipy>=1.14",
        "simplejpeg>=1.8.2",
        "threadpoolctl>=3.5",
    ],
    extras_require={
        "cpu": ["tensorflow>=2.20", "keras>=3.10", "faiss-cpu>=1.11"],
        "gpu": ["tensorflow[and-cuda]>=2.20", "keras>=3.10", "faiss-gpu>=1.11"],
        "formats": ["pillow-jxl-plugin>=1.3.4", "rawpy>=0.27"],  # JPEG XL, RAW
        "gcp": ["apache-beam[gcp]"],
        "aws": ["apache-beam[aws]"],
        "torch": ["torch>=2.6"],
        "train": ["tensorboard>=2.20"],
        "notebook": ["ipykernel>=6.29", "pandas>=2.2,<3"],  # in notebooks, Beam needs pandas 2
        "bench": ["infomap>=2.8", "matplotlib>=3.9"],
        "test": [
            "black>=25",  # formats the signatures in docs/api.md
            "build>=1.2",
            "griffe2md>=1.5",
            "hypothesis>=6.130",
            "import-linter>=2.7",
            "ipykernel>=6.29",
            "mtcnn==1.0.0",  # the published implementation that ours is compared with
            "nbclient>=0.10",
            "pandas>=2.2,<3",
            "pre-commit>=4.2",
            "pyright[nodejs]==1.1.414",  # each release finds other errors
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff==0.14.1",  # each release formats and complains differently
            "setuptools>=77",
        ],
    },
    entry_points={"console_scripts": ["facecluster = facecluster.pipeline.cli.main:script"]},
)
