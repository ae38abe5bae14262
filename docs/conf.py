"""Configuration of the documentation website.

Build it with `pip install -e ".[docs]"` and

    sphinx-build -W -n --keep-going -b html docs docs/_build/html

Pages load nothing from other hosts: scripts, fonts and styles come from the installed
packages, and formulas are MathML. The build works without a network, so it does not use
intersphinx.
"""

import inspect
import os
from pathlib import Path

from docutils.nodes import SkipNode
from math_core import LatexToMathML
from sphinx_gallery.sorting import ExplicitOrder

# These must be set before numpy is imported. The problems in the gallery are too small
# for several threads to pay off.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import skqprobe

HERE = Path(__file__).parent

project = "skqprobe"
author = "The skqprobe developers"
copyright = author
version = release = skqprobe.__version__

# pytest runs the examples of these pages and of docstrings, not sphinx.ext.doctest.
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples", "auto_examples/**.ipynb"]
templates_path = ["_templates"]
default_role = "literal"  # `name` in a docstring is code
nitpicky = True

# -- Pages ---------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"  # exclude prompts and output

# -- API reference -------------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings give types and shapes
numpydoc_show_class_members = False  # the class pages list them
toc_object_entries_show_parents = "hide"
add_function_parentheses = add_module_names = False
numpydoc_validation_checks = {
    "all",  # except these:
    "ES01",  # a one-line summary is often enough
    "EX01",  # the class has an example, not each method
    "SA01",  # most related names are on the same page of the reference
    "RT02",  # returned values have names, as in scikit-learn
    "RT03",  # name and type of a returned value are often enough
    "RT04",  # a description may begin with a symbol
    "RT05",  # a description need not be a sentence
}
numpydoc_validation_exclude = {
    r"\.losses\.(?!BaseLoss)\w+\.",  # methods documented in BaseLoss
    r"\.losses\.LOSSES$",  # a dict
    r"\.Base(Embedder|Generator)$",  # the parameters are shared by the subclasses
}

# -- Gallery -------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",  # from_text.py needs models and is not run
    "abort_on_example_error": True,
    "within_subsection_order": ExplicitOrder(
        [
            "plot_quickstart.py",
            "plot_losses.py",
            "plot_reward_curve.py",
            "plot_reward_kl.py",
            "plot_temperature.py",
            "plot_prompt_difficulty.py",
            "plot_data_efficiency.py",
            "*",
            "plot_text.py",
            "from_text.py",
        ]
    ),
    "default_thumb_file": str(HERE / "_static" / "text.png"),
    "backreferences_dir": "api/backreferences",
    "doc_module": ("skqprobe",),
    "reference_url": {"skqprobe": None},
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}

# -- Theme ---------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {
    "logo": {"text": project},
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": {"**": ["page-toc"]},
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}  # light or dark, following the system setting
html_sidebars = {  # these pages have no subpages
    page: [] for page in ("index", "start", "paper")
}
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"

# -- Local extensions ----------------------------------------------------------------


def write_math(translator, node):
    """Write a formula as MathML. An invalid formula is an error."""
    displaystyle = node.tagname == "math_block"
    mathml = LatexToMathML().convert_with_local_state(
        node.astext(), displaystyle=displaystyle
    )
    translator.body.append(
        f'<div class="math">{mathml}</div>' if displaystyle else mathml
    )
    raise SkipNode


def skip_foreign(app, what, name, member, skip, options):
    """Skip members that a class inherits from another package."""
    member = getattr(member, "fget", member)  # the function of a property
    module = getattr(inspect.unwrap(member), "__module__", None) or ""
    # A policy defines classes_ only to raise an error.
    return skip or name == "classes_" or not module.startswith("skqprobe")


def setup(app):
    """Register the functions above with Sphinx."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("autodoc-skip-member", skip_foreign)
