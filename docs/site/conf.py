"""How Sphinx makes a site of the documentation: `make docs`.

The source is the whole repository, for a link between pages is then the same on a forge and on the site, README.md and
the charts' pages included: a page's address is its path here, with .html for .md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "token-sidecar"
author = "the authors of token-sidecar"
extensions = ["myst_parser", "contents"]

# Sphinx's ** stands for any path, an empty one included, only without a slash behind it.
include_patterns = ["*.md", "docs/**.md", "helm/*/README.md"]
exclude_patterns = [".*", "build", "demo", "dist", "sidecar", "tests"]
root_doc = "docs/index"

# As forges make them, so that links to headings work on both.
myst_heading_anchors = 4
nitpicky = True

html_theme = "furo"
html_title = project
html_favicon = "../../sidecar/console/static/icon.svg"
html_static_path = ["site.js", "site.css"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_extra_path = ["root"]
html_use_index = False
html_show_copyright = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
