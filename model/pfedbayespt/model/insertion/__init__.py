"""Where prompts act in the frozen trunk: one interface, four ways and none (`base.py`)."""

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import HeadConfig, InsertionConfig
from pfedbayespt.model.insertion.base import Insertion, InsertionError
from pfedbayespt.model.insertion.context import Context, concatenate
from pfedbayespt.model.insertion.hybrid import HybridInsertion
from pfedbayespt.model.insertion.midway import MidwayInsertion
from pfedbayespt.model.insertion.prefix import PrefixInsertion
from pfedbayespt.model.insertion.twoway import TwoWayInsertion
from pfedbayespt.model.insertion.unprompted import UnpromptedInsertion

__all__ = ["Context", "Insertion", "InsertionError", "build_insertion", "concatenate"]

_AnyInsertion = TwoWayInsertion | PrefixInsertion | HybridInsertion | MidwayInsertion | UnpromptedInsertion

_KINDS: dict[str, type[_AnyInsertion]] = {
    "twoway": TwoWayInsertion,
    "prefix": PrefixInsertion,
    "hybrid": HybridInsertion,
    "midway": MidwayInsertion,
    "none": UnpromptedInsertion,
}


def build_insertion(
    config: InsertionConfig,
    backbone: Backbone,
    mid_block: int | None = HeadConfig.mid_block,
    grid_size: int = HeadConfig.grid_size,
) -> Insertion:
    """Return the insertion of `config` in `backbone`; `HeadConfig` says what the others mean.

    Raises:
        InsertionError: more blocks are prompted than there are, or the middle block is not one of them.
    """
    return _KINDS[config.kind](config, backbone, mid_block, grid_size)
