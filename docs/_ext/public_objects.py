"""Every public object of the package has an entry in the API reference, or the build fails."""

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import subscape


def check(app: Sphinx, error: Exception | None) -> None:
    """Compare what Sphinx knows of with what the package exports."""
    if error is not None or app.builder.name != "html":
        return
    known = {name for name, *_ in app.env.get_domain("py").get_objects()}
    missing = [n for n in subscape.__all__ if n != "__version__" and f"subscape.{n}" not in known]
    if missing:
        raise ExtensionError(f"not in the API reference: {missing}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Look when everything is built."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
