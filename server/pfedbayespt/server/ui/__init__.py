"""The dashboard at `/ui`, and the API's documentation at `/docs`: pages for people, from this host alone."""

from pfedbayespt.server.ui.site import FORM_ENVELOPE_BYTES, IMAGE_FORMS, TENSOR_FORMS, install, routers

__all__ = ["FORM_ENVELOPE_BYTES", "IMAGE_FORMS", "TENSOR_FORMS", "install", "routers"]
