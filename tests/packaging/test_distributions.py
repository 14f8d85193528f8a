"""The wheel and the sdist hold the whole package and work where the repository is not."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HIDDEN = ("facecluster", "torch")  # see conftest.hide_torch
ROOMS = ("model_export", "pipeline", "transforms")

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
from importlib import resources
import facecluster

assert facecluster.__file__.startswith(sys.prefix), facecluster.__file__
for module in pkgutil.walk_packages(facecluster.__path__, "facecluster."):
    importlib.import_module(module.name)
for name in getattr(facecluster, "__all__", ()):
    assert getattr(facecluster, name) is not None
assert resources.files("facecluster").joinpath("py.typed").is_file()
assert resources.files("facecluster.pipeline.report").joinpath("report.html.j2").read_text()
published = resources.files("facecluster.model_export.weights") / "published"
assert {path.name.rpartition(".")[2] for path in published.iterdir()} == {"json", "npz"}
"""


def run(command: list, folder: Path) -> str:
    """Runs a command in a folder, without the variables that lead back to the repository."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The files that a distribution is built from. Building leaves files, so it is a copy."""
    folder = tmp_path_factory.mktemp("source")
    generated = shutil.ignore_patterns("__pycache__")
    for name in ("facecluster", *ROOMS):
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=generated)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.fixture(scope="module")
def distributions(source, tmp_path_factory) -> dict[str, Path]:
    output = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source], output)
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def list_files(distribution: Path) -> set[str]:
    """The files of the package facecluster in a distribution."""
    if distribution.suffix == ".whl":
        with zipfile.ZipFile(distribution) as file:
            return {name for name in file.namelist() if name.startswith("facecluster/")}
    with tarfile.open(distribution) as file:
        names = (member.name.partition("/")[2] for member in file if member.isfile())
        return {name for name in names if name.startswith("facecluster/")}


def list_package_files(source: Path) -> set[str]:
    paths = [path for path in (source / "facecluster").iterdir() if path.is_file()]
    for room in ROOMS:
        paths += [path for path in (source / room).rglob("*") if path.is_file()]
    return {
        path.relative_to(source).as_posix()
        if path.parent.name == "facecluster"
        else f"facecluster/{path.relative_to(source).as_posix()}"
        for path in paths
    }


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_distribution_holds_every_file_of_the_package(source, distributions, kind):
    expected = list_package_files(source)
    assert "facecluster/pipeline/report/report.html.j2" in expected
    assert "facecluster/py.typed" in expected
    assert list_files(distributions[kind]) == expected


def test_setup_py_builds_the_same_sdist_for_dataflow(source, distributions, tmp_path):
    """Beam's --setup_file runs setup.py itself, and workers install what it makes."""
    output = tmp_path / "dist"
    run([sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", output], source)
    (sdist,) = output.glob("*.tar.gz")
    assert sdist.name == distributions["sdist"].name
    assert list_files(sdist) == list_files(distributions["sdist"])


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory) -> Path:
    """A folder of links to all that is installed here, except facecluster and PyTorch."""
    folder = tmp_path_factory.mktemp("dependencies")
    for scheme in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(scheme).iterdir():
            if path.suffix != ".pth" and not any(name in path.name for name in HIDDEN):
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def empty_environment(dependencies, tmp_path) -> Path:
    """A new virtual environment that has facecluster's dependencies, but not facecluster."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    find = "import importlib.util; print(importlib.util.find_spec('facecluster'))"
    assert run([folder / "bin" / "python", "-c", find], tmp_path) == "None\n"
    return folder


def install(distribution: Path, python: Path, folder: Path) -> None:
    run(
        [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check",
         "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", distribution],
        folder,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_distribution_works_in_an_empty_environment(
    distributions, empty_environment, kind, tmp_path
):
    python = empty_environment / "bin" / "python"
    install(distributions[kind], python, tmp_path)
    run([python, "-c", IMPORT_EVERYTHING], tmp_path)
    assert "facecluster" in run([empty_environment / "bin" / "facecluster", "--help"], tmp_path)


def test_the_installed_command_groups_photos(
    distributions, empty_environment, lfw_images, mtcnn_folder, facenet_folder, tmp_path
):
    python, photos, output = empty_environment / "bin/python", tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for photo in sorted(lfw_images.glob("*/*.jpg"))[:2]:
        shutil.copy(photo, photos)
    install(distributions["wheel"], python, tmp_path)
    command = empty_environment / "bin" / "facecluster"
    summary = run([command, "run", "--input", photos, "--output", output], tmp_path)
    assert summary.split()[:2] == ["photos", "2"]
    assert (output / "report" / "index.html").is_file()
