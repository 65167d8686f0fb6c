"""Settings of the documentation site: ``sphinx-build -E -W --keep-going -n docs OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import nnunet_meep

project = "nnunet-meep"
author = "The nnunet-meep developers"
version = release = nnunet_meep.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.katex",
    "extension",
]
exclude_patterns = ["site/extra"]
html_theme = "pydata_sphinx_theme"
html_title = "nnunet-meep"
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
# Written by the extension: whole pages of our own, such as the report of a benchmark.
html_extra_path = ["site/extra"]
html_theme_options = {
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}

# Formulas are written as GitHub shows them: $...$ in a line, and blocks of ```math.
myst_enable_extensions = ["dollarmath", "html_image"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
# KaTeX comes with the extension, so that formulas need no network. As MathML they need none of its
# fonts either; its style sheet, which is not among its files, is then without use.
html_math_renderer = "katex"
katex_options = 'output: "mathml"'
katex_css_path = "katex-math.css"

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures of arrays say less than the docstrings
python_use_unqualified_type_names = True
add_module_names = False
# Names of other packages, and of ours that are not public: there is no page to link to.
nitpick_ignore_regex = [("py:.*", ".*")]

copybutton_prompt_text = "$ "
