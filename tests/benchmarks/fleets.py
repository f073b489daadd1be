"""A small fleet over the random pool."""

from dataclasses import replace

from fleet import Fleet
from partition import Setting, partition

from pfedbayespt.model.config import HeadConfig, InsertionConfig, ModelConfig, PosteriorConfig, TrainingConfig

POSTERIOR = PosteriorConfig(latent_dim=4, noise_dim=3, hidden_dim=8)
TRAINING = TrainingConfig(local_epochs=2, batch_size=8, num_mixing_samples=3, seed=5)
SETTING = Setting("F2", num_sites=3, num_train=20, num_test=26)


PREFIX = InsertionConfig("prefix", 2, 2)
HEAD_OPTIONS = ("label_shift", "personal_residual", "cross_fit_folds")


def make_fleet(encoded, *, insertion=PREFIX, **options) -> Fleet:
    """`options` are of the head, and all others of the posterior."""
    head = {name: options.pop(name) for name in HEAD_OPTIONS if name in options}
    config = ModelConfig(3, insertion, replace(POSTERIOR, **options), HeadConfig(4, **head))
    split = partition(encoded.pool, SETTING, seed=0)
    return Fleet(encoded, split.train, split.test, config, TRAINING, num_rounds=4)
