"""The HTTP of forgetting: encoded images that this process keeps for whoever asks about one again."""

from fastapi import APIRouter

from pfedbayespt.protocol import FeaturesForgotten
from pfedbayespt.server.auth import AdminCaller, Predicting
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.predictions.endpoints import PredictionsDep, asker_of

router = APIRouter(prefix="/v1/feature-cache", tags=["predictions"])


@router.delete("", **documented("Forget encoded images"))
def forget_features(predictions: PredictionsDep, caller: Predicting) -> FeaturesForgotten:
    """Forget what this process keeps of the images that the caller's organisation has asked about; an admin: all.

    Such images are kept in memory only, and only where `PFEDBAYESPT_FEATURE_CACHE_BYTES` says so.
    """
    tenant = None if isinstance(caller, AdminCaller) else asker_of(caller).tenant
    return FeaturesForgotten(num_bytes=predictions.predictor.forget(tenant))
