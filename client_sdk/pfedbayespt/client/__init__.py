"""The SDK of organisations and admins: a site that trains beside its images, and a client of the coordinator.

What needs torch is imported when it is first asked for, so that an admin's script starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pfedbayespt.client import errors, events
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import (
    BackboneMismatchError,
    DatasetError,
    IntegrityError,
    PFedBayesPTError,
    PredictionError,
    ProblemError,
    SpecificationChangedError,
    StateError,
    TrainingError,
    TransportError,
)
from pfedbayespt.client.transport import HttpAnswer, HttpRequest, Timeouts, Transport

if TYPE_CHECKING:
    from pfedbayespt.client.adaptation import AdaptationReport
    from pfedbayespt.client.data import ImageFolderDataset, ImageTableDataset, LabelledImages
    from pfedbayespt.client.predictor import LocalPredictor
    from pfedbayespt.client.site import Site, SiteStatus

_NEED_TORCH = {
    "AdaptationReport": "adaptation",
    "ImageFolderDataset": "data",
    "ImageTableDataset": "data",
    "LabelledImages": "data",
    "LocalPredictor": "predictor",
    "Site": "site",
    "SiteStatus": "site",
}

__all__ = [
    "AdaptationReport",
    "BackboneMismatchError",
    "CoordinatorClient",
    "DatasetError",
    "HttpAnswer",
    "HttpRequest",
    "ImageFolderDataset",
    "ImageTableDataset",
    "IntegrityError",
    "LabelledImages",
    "LocalPredictor",
    "PFedBayesPTError",
    "PredictionError",
    "ProblemError",
    "Site",
    "SiteStatus",
    "SpecificationChangedError",
    "StateError",
    "Timeouts",
    "TrainingError",
    "Transport",
    "TransportError",
    "errors",
    "events",
]


def __getattr__(name: str) -> object:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
