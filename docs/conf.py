"""Sphinx configuration: MyST pages, the furo theme, docstrings in Google style."""

import minari_obd

project = "minari-obd"
author = "The minari-obd authors"
copyright = "2026, the minari-obd authors"
release = minari_obd.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "minari-obd"
exclude_patterns = ["_build", "results/*"]  # raw results and their tables
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
