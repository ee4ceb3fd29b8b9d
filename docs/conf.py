"""Sphinx configuration: MyST pages, the furo theme, docstrings in Google style, formulas as MathML."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import minari_obd

project = "minari-obd"
author = "The minari-obd authors"
copyright = "2026, the minari-obd authors"
release = minari_obd.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "minari-obd"
exclude_patterns = ["_build", "results/*"]  # raw results and their tables
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw by themselves: pages need no script and no network."""
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math, None))


def _visit_math(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode
