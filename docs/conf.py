"""The documentation site: `make docs` builds it into build/docs, warnings being errors."""

import os
import sys
from pathlib import Path

import subscape

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "subscape"
copyright = "the authors of subscape"
release = subscape.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "public_objects",
    "command_help",
    "links",
]
templates_path: list[str] = []
html_theme = "furo"
html_title = "subscape"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
# A widget shows itself as HTML here: its own script would have to come from another host.
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
# Real models are no part of the repository.
nb_execution_excludepatterns = (
    [] if os.environ.get("SUBSCAPE_DATA") else ["tutorials/language-model.md"]
)
exclude_patterns = ["_ext"]

# Docstrings name arguments and values in single backticks.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
