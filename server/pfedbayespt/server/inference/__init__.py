"""Predictions with torch: the one package of the server that knows it, and the model package.

Rules:
1. An answer comes from one bundle: a version's parameters, checked against its digest and its own manifest, on the
   backbone whose digest the federation agreed to. Bundles are immutable; a request holds one and never mixes (P4).
2. A version is loaded once, by whoever needs it first, while others go on with theirs, and comes to light whole, by
   replacing one reference. The last few are kept, so that a rollback costs nothing; all share their backbone.
3. If the version that should serve cannot be loaded, the one that served before answers on, and its number says so.
4. A backbone is found by the SHA-256 of its file, whatever its name, in one folder; nothing is ever downloaded.
5. The same image, options and version give the same bytes: the default seed is derived from them. Where images are
   joined in batches (`batching`), that is so up to rounding.
"""

from pathlib import Path

from pfedbayespt.model.backbone import choose_device
from pfedbayespt.protocol.predictions import Precision
from pfedbayespt.server.blobs import BlobStore
from pfedbayespt.server.inference.backbones import BackboneFolder
from pfedbayespt.server.inference.batching import MicroBatcher, MicroBatching, is_wanted
from pfedbayespt.server.inference.bundle import Bundle
from pfedbayespt.server.inference.cores import share_cores
from pfedbayespt.server.inference.features import FeatureCache
from pfedbayespt.server.inference.memory import return_large_blocks
from pfedbayespt.server.inference.predictor import BundlePredictor

__all__ = [
    "BackboneFolder",
    "Bundle",
    "BundlePredictor",
    "make_predictor",
    "return_large_blocks",
    "share_cores",
]


def make_predictor(
    blobs: BlobStore,
    backbones: Path,
    *,
    precision: Precision = "float32",
    compiled: bool = False,
    micro_batching: MicroBatching = "auto",
    cache_bytes: int = 0,
) -> BundlePredictor:
    """Return the predictor for versions in `blobs`, on backbones in the folder `backbones`."""
    device = choose_device()
    folder = BackboneFolder(backbones, device, precision=precision, compiled=compiled)
    batcher = MicroBatcher() if is_wanted(micro_batching, device, precision) else None
    return BundlePredictor(blobs, folder, batcher, FeatureCache(cache_bytes) if cache_bytes else None)
