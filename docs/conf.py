"""How Sphinx builds this site: `make docs`."""

import os
import sys
from functools import partialmethod
from pathlib import Path

import fastapi  # noqa: F401 - before autodoc, which imports with TYPE_CHECKING set: pydantic does not bear that
from nbclient import NotebookClient

# Else what %%bash prints is shown in pieces of 100 bytes.
NotebookClient.__init__ = partialmethod(NotebookClient.__init__, coalesce_streams=True)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ |= {"TTY_COMPATIBLE": "0", "COLUMNS": "84"}  # commands in cells print plain text of the width of a page
# Cells find the commands of this environment, and the benchmarks.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))

project = "delf-engine"
author = "The delf-engine maintainers"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "generated",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "py:obj"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
nb_execution_mode = "force"  # what a page prints is what this version says
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress bars
nb_merge_streams = True
nb_render_markdown_format = "gfm"
html_theme = "furo"
html_title = "delf-engine"
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
exclude_patterns = ["_build", "results"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
