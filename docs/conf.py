"""Sphinx settings: `make docs` builds these pages, and every warning is an error."""

import re
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "Concert"
author = copyright = "The Concert developers"
version = release = installed_version("concert-smoothing")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Concert {version}"
html_static_path: list[str] = []

# Links within a page to its headings, as GitHub has them.
myst_heading_anchors = 3

# Docstrings name code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_rtype = False
python_display_short_literal_types = True


def name_what_is_not_a_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Links out of this folder, which lead somewhere in a checkout only, become names."""
    source[0] = re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+((?:results|configs|src|tests)/[^)]*)\)", r"\1 (`\2`)", source[0]
    )


def setup(app: Sphinx) -> None:
    app.connect("source-read", name_what_is_not_a_page)
