"""How the pages are built: `make docs` without running the examples, `make gallery` with what they measure."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # drawn.py, executed.py, gallery.py and others, beside this file

project = "sfumato"
author = "the authors of sfumato"
about = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
version = release = about["version"]
llms_summary = about["description"]
html_title = f"{project} {version}"
html_theme = "furo"
html_show_copyright = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["gallery.css"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_gallery.gen_gallery"]
extensions += ["drawn", "executed", "llms", "mathml", "pages"]
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "special-members": "__call__"}
autodoc_preserve_defaults = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"[\\/]plot_",
    "ignore_pattern": r"^(?!plot_)",  # what examples share is no example
    "within_subsection_order": "gallery.order",
    "image_scrapers": ("gallery.loose", "matplotlib"),
    "capture_repr": (),  # what an example says it prints
    "abort_on_example_error": True,
    "notebook_extensions": set(),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 10**6,  # seconds: they would be those of whatever machine it was
}
