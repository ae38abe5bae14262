"""The site of the documentation builds without a warning, and is complete."""

import inspect
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from process import run_python
from public import public_names, public_objects
from sklearn.base import BaseEstimator

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


class Page(HTMLParser):
    """The links of a page, the files that it loads, and its anchors."""

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


def build(folder):
    """Build the site from a copy, with the command of the documentation."""
    built = shutil.ignore_patterns("_build", "auto_examples", "backreferences")
    shutil.copytree(DOCS, folder / "docs", ignore=built)
    for stub in (folder / "docs" / "api").glob("skqprobe*.rst"):
        stub.unlink()  # left by a build in the checkout
    command = "-m sphinx -q -W -n --keep-going -b html docs html"
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    run_python(*command.split(), cwd=folder, MPLBACKEND="agg", **one_thread)
    return folder / "html"


def names_without_a_page(site, pages):
    for name in public_names():
        page = pages.get(site / "api" / f"{name}.html")
        if page is None or name not in page.anchors:
            yield name
    for estimator in estimators():
        link = object.__new__(estimator)._get_doc_link()
        if not (site / "api" / link.rsplit("/api/")[1]).exists():
            yield link


def estimators():
    """Public classes whose HTML representation has a link behind its question mark."""
    classes = filter(inspect.isclass, public_objects().values())
    return [
        member
        for member in classes
        if issubclass(member, BaseEstimator) and not inspect.isabstract(member)
    ]


@pytest.mark.parametrize("estimator", estimators(), ids=lambda e: e.__name__)
def test_html_representation_links_to_the_page_of_the_class(estimator):
    link = object.__new__(estimator)._get_doc_link()
    name = f"{estimator.__module__}.{estimator.__name__}"
    assert link == f"https://skqprobe.readthedocs.io/en/stable/api/{name}.html"


def test_wide_content_shows_that_it_scrolls():
    """On a narrow screen it fades out on the side where there is more of it."""
    css = " ".join((DOCS / "_static" / "custom.css").read_text("utf-8").split())
    wide = ".bd-article :is(pre, div.math, .pst-scrollable-table-container)"
    for rule in (
        wide
        + " { animation: more linear; animation-timeline: scroll(self inline); mask",
        wide + "::-webkit-scrollbar {",
        "div.math { display: block;",  # not the theme's flex box, which does not scroll
    ):
        assert rule in css


def broken_links(site, pages):
    """Internal links without a target page, or without an anchor in it."""
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
                yield f"{path.relative_to(site)}: {link}"


def files_from_other_hosts(site, pages):
    """Loaded files that are missing, or that need the network."""
    for path, page in pages.items():
        for load in page.loads:
            parts = urlsplit(load)
            is_local = parts.scheme in ("", "data") and not parts.netloc
            if not is_local or not (
                parts.scheme or (path.parent / unquote(parts.path)).exists()
            ):
                yield f"{path}: {load}"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        if re.search(r"""(@import\s+|url\()["']?(https?:)?//.*""", text):
            yield str(path)


def formulas_that_are_not_drawn(site, pages):
    page = (site / "guide" / "method.html").read_text(encoding="utf-8")
    if "<math" not in page or "\\frac" in page:
        yield "guide/method.html"


@pytest.mark.slow
@pytest.mark.skipif(not DOCS.exists(), reason="not a checkout")
def test_site(tmp_path):
    """One test, so that parallel workers do not build the site twice."""
    for tool in TOOLS:
        pytest.importorskip(tool, reason="pip install -e '.[docs]'")
    site = build(tmp_path)
    html = (path for path in site.rglob("*.html") if "_static" not in path.parts)
    pages = {path: Page(path) for path in html}
    for problems in (
        names_without_a_page,
        broken_links,
        files_from_other_hosts,
        formulas_that_are_not_drawn,
    ):
        found = list(problems(site, pages))
        assert not found, problems.__name__
