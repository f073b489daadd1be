"""The dashboard at `/ui`, and the API's documentation at `/docs`: pages for people, from this host alone."""

from pfedbayespt.server.ui.site import IMAGE_FORMS, install, routers

__all__ = ["IMAGE_FORMS", "install", "routers"]
