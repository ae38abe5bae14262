"""The wheel and the source distribution are complete, and their metadata correct."""

import importlib
import importlib.metadata
import re
import tarfile
import tomllib
import zipfile
from email import message_from_string
from importlib import resources
from pathlib import Path

import pytest

import skqprobe

ROOT = Path(__file__).parents[1]
DATA = ["datasets/data/two_words.npz", "datasets/descr/two_words.rst"]

checkout = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="not a checkout"
)


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement):
    """Return the normalized name of a required package."""
    return re.sub(r"[_.-]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def build(kind, folder):
    """Build this checkout with the backend of pyproject.toml, and return the path."""
    if not (ROOT / "skqprobe").exists():
        pytest.skip("not a checkout")
    module = pytest.importorskip(f"hatchling.builders.{kind}")
    builder = getattr(module, f"{kind.capitalize()}Builder")
    return next(builder(str(ROOT)).build(directory=str(folder)))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """File names in the source distribution."""
    with tarfile.open(build("sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        return {name.split("/", 1)[1] for name in archive.getnames()}


def metadata(wheel):
    (path,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    return message_from_string(wheel.read(path).decode())


def test_installed_package_has_types_and_data():
    package = resources.files(skqprobe)
    for name in ("py.typed", *DATA):
        assert package.joinpath(name).is_file(), name


def test_installed_version():
    try:
        installed = importlib.metadata.version("skqprobe")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("skqprobe is not installed")
    assert installed == skqprobe.__version__


def test_wheel_has_exactly_the_files_of_the_package(wheel):
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "skqprobe").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(wheel.namelist())
    assert {name for name in names if ".dist-info/" not in name} == files
    assert {f"skqprobe/{name}" for name in ("py.typed", *DATA)} <= files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_metadata(wheel, project):
    fields = metadata(wheel)
    assert fields["Name"] == "skqprobe"
    assert fields["Version"] == skqprobe.__version__
    assert fields["Requires-Python"] == project["requires-python"]
    assert fields["License-Expression"] == "BSD-3-Clause"
    assert fields["Description-Content-Type"] == "text/markdown"
    core = [line for line in fields.get_all("Requires-Dist") if "extra ==" not in line]
    assert {name_of(line) for line in core} == {"numpy", "scipy", "scikit-learn"}
    assert set(fields.get_all("Provides-Extra")) == set(
        project["optional-dependencies"]
    )


def test_wheel_has_the_command(wheel, project):
    (path,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    text = wheel.read(path).decode()
    (target,) = re.findall(r"^skqprobe = (\S+)$", text, re.M)
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert project["scripts"] == {"skqprobe": target}


def test_sdist_has_the_files_that_its_tests_need(sdist):
    tests = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/*.py")]
    assert sdist.issuperset(tests)
    assert sdist.issuperset(
        ["pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"]
    )
    assert any(name.startswith("tests/fixtures/") for name in sdist)
    assert {"docs/develop/index.md", "docs/images/architecture.svg"} <= sdist


def test_sdist_has_no_built_file(sdist):
    built = re.compile(r"__pycache__|\.pyc$|_build/|auto_examples/|\.egg-info|/\.")
    assert not [name for name in sdist if built.search(name)]


@checkout
def test_extras_named_in_texts_and_errors_exist(project):
    extras = set(project["optional-dependencies"])
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md")]
    paths += ROOT.glob("skqprobe/**/*.py")
    texts = "".join(path.read_text("utf-8") for path in paths)
    named = set(",".join(re.findall(r"skqprobe\[([\w,-]+)\]", texts)).split(","))
    assert "transformers" in named
    assert named <= extras


@checkout
def test_constraints_pin_all_packages_of_the_test_command(project):
    """The command in the README has ``-c constraints.txt``."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {name_of(line) for line in lines if "==" in line}
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["models"]]
    names = {name_of(line) for line in wanted if not line.startswith("skqprobe[")}
    assert names <= pinned


@checkout
def test_python_versions_agree(project):
    lowest = re.fullmatch(r">=3\.(\d+)", project["requires-python"])[1]
    minors = [
        int(line.rpartition(".")[2])
        for line in project["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert min(minors) == int(lowest)
    assert minors == list(range(min(minors), max(minors) + 1))


@checkout
def test_changelog_starts_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, re.M)
    assert len(versions) == len(re.findall(r"^## ", text, re.M)), "heading format"
    is_development = ".dev" in skqprobe.__version__
    assert versions[0] == ("Unreleased" if is_development else skqprobe.__version__)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= kinds


@checkout
def test_saved_files_of_this_release_exist():
    """Later versions are tested to load them."""
    assert (ROOT / "tests" / "fixtures" / skqprobe.__version__).is_dir()
