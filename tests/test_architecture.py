"""The picture of the house in docs/develop.md is what the modules really import."""

import ast
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skqprobe"
PICTURE = ROOT / "docs" / "images" / "house.svg"

pytestmark = pytest.mark.skipif(
    not (PACKAGE.exists() and PICTURE.exists()), reason="not a checkout"
)


@pytest.fixture(scope="module")
def picture():
    return ElementTree.parse(PICTURE).getroot()


@pytest.fixture(scope="module")
def rooms(picture):
    """The room of each module or package directly in skqprobe."""
    return {
        module: group.get("id")
        for group in picture.iter("{http://www.w3.org/2000/svg}g")
        for module in group.get("data-modules").split()
    }


def arrows(picture, kind):
    return {
        (path.get("data-from"), path.get("data-to"))
        for path in picture.iter("{http://www.w3.org/2000/svg}path")
        if path.get("data-from") and path.get("class") == kind
    }


def modules_of_the_house():
    found = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return found | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def imported_modules(path):
    """Names right under skqprobe that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "skqprobe" and rest:
                yield rest[0]


def imports_between(rooms):
    """(from room, to room) of all imports in the package, without the floor."""
    pairs = set()
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if module not in rooms:  # __init__, or found by the test above
            continue
        # A name of skqprobe/__init__.py, such as the version, is of no room either.
        targets = {rooms.get(name) for name in imported_modules(path)} - {None}
        pairs |= {(rooms[module], target) for target in targets - {rooms[module]}}
    return {(start, end) for start, end in pairs if end != "floor"}


def test_every_module_has_one_room(picture):
    groups = picture.iter("{http://www.w3.org/2000/svg}g")
    drawn = list(
        chain.from_iterable(group.get("data-modules").split() for group in groups)
    )
    assert sorted(drawn) == sorted(modules_of_the_house()), (
        f"Each module has its place in one data-modules of {PICTURE.name}."
    )


def test_every_import_is_an_arrow_and_every_arrow_an_import(picture, rooms):
    assert imports_between(rooms) == arrows(picture, None)


def test_the_floor_imports_no_room(rooms):
    assert not [pair for pair in imports_between(rooms) if pair[0] == "floor"]


def test_calls_are_not_imports(picture, rooms):
    calls = arrows(picture, "call")
    assert calls == {("solvers", "objective"), ("objective", "losses")}
    assert not calls & imports_between(rooms)


def test_arrows_point_one_way(picture):
    """No room can be reached from itself."""
    steps = arrows(picture, None) | arrows(picture, "call")
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


def test_rules_that_the_design_names(rooms):
    imports = imports_between(rooms)
    learning = {"estimators", "solvers", "objective"}
    for room in ("embedders", "generators", "preprocessing", "metrics", "plotting"):
        assert not {end for start, end in imports if start == room} & learning
    assert not [
        pair for pair in imports if pair[0] in ("losses", "solvers", "datasets")
    ]
    assert not [pair for pair in imports if pair == ("estimators", "embedders")]


def test_private_scikit_learn_in_one_file():
    """What scikit-learn keeps private is imported in _sklearn.py alone."""
    offenders = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module.split(".")[0] != "sklearn":
                continue
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            if any(name.startswith("_") for name in names):
                offenders.append(path.name)
    assert set(offenders) == {"_sklearn.py"}
