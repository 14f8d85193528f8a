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
        "facecluster": ["py.typed"],
        "facecluster.pipeline.report": ["report.html.j2"],
        "facecluster.model_export.weights": ["published/*"],
    },
    install_requires=[
        "apache-beam==2.77.0",
        "google-crc32c==1.9.0",
        "hdbscan==0.8.44",
        "jinja2==3.1.6",
        "joblib==1.6.0",
        "lz4==4.4.5",
        "numpy==2.4.6; python_version >= '3.11'",
        "numpy==2.2.6; python_version < '3.11'",
        "pillow==12.3.0",
        "pillow-heif==1.8.1",
        "protobuf",
        "pyarrow==25.0.1",
        "scikit-learn==1.9.1; python_version >= '3.11'",
        "scikit-learn==1.7.2; python_version < '3.11'",
        "scipy==1.17.1; python_version >= '3.11'",
        "scipy==1.15.3; python_version < '3.11'",
        "threadpoolctl==3.8.0",
    ],
    extras_require={
        "cpu": ["tensorflow==2.21.0", "faiss-cpu==1.15.1"],
        "gpu": ["tensorflow[and-cuda]==2.21.0", "faiss-gpu==1.15.1"],
        "gcp": ["apache-beam[gcp]==2.77.0"],
        "torch": ["torch==2.9.1"],
        "train": ["tensorboard==2.21.0"],
        "bench": ["infomap==2.16.0", "matplotlib==3.11.2"],
        "test": ["pytest==8.4.2", "hypothesis==6.142.1", "ruff==0.14.1", "mtcnn==1.0.0"],
    },
    entry_points={"console_scripts": ["facecluster = facecluster.pipeline.cli.main:script"]},
)
