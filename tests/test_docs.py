"""The documentation's site: it builds without a warning, and is whole."""

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import skqprobe

DOCS = Path(__file__).parents[1] / "docs"
TOOLS = [
    "math_core",
    "matplotlib",
    "myst_parser",
    "numpydoc",
    "pydata_sphinx_theme",
    "sphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery",
]

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not a checkout")


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], {"", "#"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.anchors.add(attrs.get("id"))
        if tag == "a":
            self.anchors.add(attrs.get("name"))
            self.links.append(attrs.get("href", ""))
        elif tag == "link":
            if attrs["rel"] in ("stylesheet", "preload", "icon", "modulepreload"):
                self.loads.append(attrs["href"])
        elif "src" in attrs:
            self.loads.append(attrs["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, built as the documentation says, from a copy."""
    for tool in TOOLS:
        pytest.importorskip(tool, reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = shutil.ignore_patterns("_build", "auto_examples", "backreferences")
    shutil.copytree(DOCS, folder / "docs", ignore=built)
    for stub in (folder / "docs" / "api").glob("skqprobe*.rst"):
        stub.unlink()  # left by a build in the checkout
    command = "-m sphinx -q -W -n --keep-going -b html docs html"
    run = subprocess.run(
        [sys.executable, *command.split()],
        cwd=folder,
        env={
            **os.environ,
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {
        path: Page(path)
        for path in site.rglob("*.html")
        if "_static" not in path.parts  # the theme's templates
    }


def public_names():
    modules = [
        module.name
        for module in pkgutil.iter_modules(skqprobe.__path__, "skqprobe.")
        if not module.name.startswith(("skqprobe._", "skqprobe._solvers"))
    ]
    for module in ["skqprobe", *modules]:
        for name in importlib.import_module(module).__all__:
            if name != "__version__":
                yield f"{module}.{name}"


def test_every_public_name_has_a_page(site, pages):
    for name in public_names():
        assert name in pages[site / "api" / f"{name}.html"].anchors, name


def test_link_of_the_html_repr(site):
    """The page that the question mark of an estimator's HTML repr opens."""
    link = skqprobe.QProbePolicy()._get_doc_link()
    assert (site / "api" / link.rsplit("/api/")[1]).exists()


def test_links(site, pages):
    """Every internal link leads to a page, and to an anchor in it."""
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
            anchors = pages[target].anchors if target in pages else {""}
            if not target.exists() or unquote(parts.fragment) not in anchors:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_nothing_from_another_host(site, pages):
    """A page can be read without the network."""
    for path, page in pages.items():
        for load in page.loads:
            parts = urlsplit(load)
            assert parts.scheme in ("", "data") and not parts.netloc, f"{path}: {load}"
            if not parts.scheme:
                assert (path.parent / unquote(parts.path)).exists(), f"{path}: {load}"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found = re.search(r"""(@import\s+|url\()["']?(https?:)?//.*""", text)
        assert not found, f"{path}: {found}"


def test_formulas_are_drawn(site):
    page = (site / "guide" / "method.html").read_text(encoding="utf-8")
    assert "<math" in page and "\\frac" not in page
