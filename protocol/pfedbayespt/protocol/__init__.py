"""The wire contract that the coordinator and the client SDK share: messages, statuses, problems, tensors."""

from pfedbayespt.protocol import tensors
from pfedbayespt.protocol._base import (
    Digest,
    Message,
    Slug,
    UtcTime,
    canonical_json,
    digest_of_bytes,
    digest_of_message,
)
from pfedbayespt.protocol.aggregation import AggregationSpecification, FedAdam, FedAvgM, FedYogi, WeightedMean
from pfedbayespt.protocol.events import Event
from pfedbayespt.protocol.federations import (
    AsynchronousPolicy,
    BackboneSpecification,
    Federation,
    FederationCreate,
    FederationSpecification,
    HeadSpecification,
    InsertionSpecification,
    PosteriorSpecification,
    RoundPolicy,
    TrainingSpecification,
)
from pfedbayespt.protocol.model_versions import (
    AggregationInput,
    Evaluation,
    ModelVersion,
    OptimiserStateManifest,
    ParametersManifest,
    SiteEvaluation,
)
from pfedbayespt.protocol.pages import Page, PageSize
from pfedbayespt.protocol.predictions import (
    ClassProbability,
    Prediction,
    PredictionOptions,
    PredictionRequest,
    Uncertainty,
)
from pfedbayespt.protocol.problems import PROBLEM_MEDIA_TYPE, Problem, ProblemKind, ProblemType
from pfedbayespt.protocol.rounds import Round
from pfedbayespt.protocol.sites import (
    Assignment,
    EnrolmentToken,
    EnrolmentTokenCreate,
    Site,
    SiteCredentials,
    SiteEnrol,
)
from pfedbayespt.protocol.statuses import (
    FederationStatus,
    ModelVersionStatus,
    RoundStatus,
    RoundTask,
    SiteAction,
    SiteStatus,
    UpdateStatus,
)
from pfedbayespt.protocol.tensors import TensorFileError, TensorHeader, TensorSchema, TensorSpec
from pfedbayespt.protocol.updates import Receipt, Update, UpdateManifest

__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "AggregationInput",
    "AggregationSpecification",
    "Assignment",
    "AsynchronousPolicy",
    "BackboneSpecification",
    "ClassProbability",
    "Digest",
    "EnrolmentToken",
    "EnrolmentTokenCreate",
    "Evaluation",
    "Event",
    "FedAdam",
    "FedAvgM",
    "FedYogi",
    "Federation",
    "FederationCreate",
    "FederationSpecification",
    "FederationStatus",
    "HeadSpecification",
    "InsertionSpecification",
    "Message",
    "ModelVersion",
    "ModelVersionStatus",
    "OptimiserStateManifest",
    "Page",
    "PageSize",
    "ParametersManifest",
    "PosteriorSpecification",
    "Prediction",
    "PredictionOptions",
    "PredictionRequest",
    "Problem",
    "ProblemKind",
    "ProblemType",
    "Receipt",
    "Round",
    "RoundPolicy",
    "RoundStatus",
    "RoundTask",
    "Site",
    "SiteAction",
    "SiteCredentials",
    "SiteEnrol",
    "SiteEvaluation",
    "SiteStatus",
    "Slug",
    "TensorFileError",
    "TensorHeader",
    "TensorSchema",
    "TensorSpec",
    "TrainingSpecification",
    "Uncertainty",
    "Update",
    "UpdateManifest",
    "UpdateStatus",
    "UtcTime",
    "WeightedMean",
    "canonical_json",
    "digest_of_bytes",
    "digest_of_message",
    "tensors",
]
