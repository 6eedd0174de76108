"""Sphinx: the documentation, built by `make docs` from the pages and notebooks here and from docstrings."""

from importlib.metadata import version as version_of

project = "eigen_lightning"
author = "The eigen_lightning authors"
version = release = version_of("eigen-lightning")
root_doc = "docs/index"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
include_patterns = ["docs/**.md", "*.ipynb"]
html_theme = "furo"
html_title = f"eigen_lightning {version}"
html_show_sourcelink = False

# Notebooks hold the outputs of the commit; `make notebooks` runs them.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
# Shapes in jaxtyping's annotations are no references.
nitpicky = False
suppress_warnings = ["ref.python", "ref.class", "mystnb.unknown_mime_type"]
