"""The picture in docs/develop shows the imports between packages as they are."""

import ast
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skqprobe"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
SVG = "{http://www.w3.org/2000/svg}"
FOUNDATION = {"_utils", "_arrays"}
"""Packages that all others may import, without an arrow."""

pytestmark = pytest.mark.skipif(
    not (PACKAGE.exists() and PICTURE.exists()), reason="not a checkout"
)


@pytest.fixture(scope="module")
def picture():
    return ElementTree.parse(PICTURE).getroot()


def arrows(picture, kind=None):
    return {
        (path.get("data-from"), path.get("data-to"))
        for path in picture.iter(f"{SVG}path")
        if path.get("data-from") and path.get("class") == kind
    }


def packages():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def imports_of(path):
    """Yield dotted names that a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imports_between_packages():
    pairs, known = set(), packages()
    for path in PACKAGE.glob("*/**/*.py"):
        package = path.relative_to(PACKAGE).parts[0]
        for name in imports_of(path):
            top, *rest = name.split(".")
            if top == "skqprobe" and rest and rest[0] in known - {package}:
                pairs.add((package, rest[0]))
    return pairs


def test_every_package_has_one_box(picture):
    boxes = [group.get("data-modules").split() for group in picture.iter(f"{SVG}g")]
    assert sorted(chain.from_iterable(boxes)) == sorted(packages())


def test_every_import_is_an_arrow_and_every_arrow_an_import(picture):
    imports = imports_between_packages()
    drawn = {(start, end) for start, end in imports if end not in FOUNDATION}
    assert drawn == arrows(picture)


def test_calls_are_not_imports(picture):
    calls = arrows(picture, "call")
    assert calls == {("_solvers", "_objectives"), ("_objectives", "losses")}
    assert not calls & imports_between_packages()


def test_imports_and_calls_point_one_way(picture):
    """No package is reached from itself."""
    steps = imports_between_packages() | arrows(picture, "call")
    reached = steps
    while True:
        further = reached | {
            (start, end)
            for start, via in reached
            for again, end in steps
            if via == again
        }
        if further == reached:
            break
        reached = further
    assert not [pair for pair in reached if pair[0] == pair[1]]


def test_rules_of_the_design():
    imports = imports_between_packages()
    learning = {"_estimators", "_solvers", "_objectives"}
    independent = {"embedders", "generators", "preprocessing", "metrics", "plotting"}
    independent |= {"datasets", "losses", "_candidates"}
    assert not {pair for pair in imports if pair[0] in independent} & {
        (start, end) for start in independent for end in learning
    }
    assert {end for start, end in imports if start == "_solvers"} <= FOUNDATION
    assert ("_estimators", "embedders") not in imports


def test_private_scikit_learn_is_imported_in_one_file():
    offenders = set()
    for path in PACKAGE.rglob("*.py"):
        for name in imports_of(path):
            top, *rest = name.split(".")
            if top == "sklearn" and any(part.startswith("_") for part in rest):
                offenders.add(path.name)
    assert offenders == {"sklearn_compat.py"}
