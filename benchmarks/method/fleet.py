"""All sites trained in one batch: every trainable tensor has a leading site dimension C.

The posterior, the objective, the optimiser's groups and schedule, the trunk and the read-out are the product's
(`pfedbayespt.model`). The small part that differs between sites, posterior and heads, runs under `torch.vmap`;
the trunk is the same for all, so sites and images are one batch for it. AdamW is elementwise, so one optimiser
steps all sites as if each had its own; only the clip needs a norm per site.

Randomness is each site's own, from (seed, round, site), drawn as `pfedbayespt.model.training` draws it.
"""

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from pools import Encoded
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import ModelConfig, TrainingConfig
from pfedbayespt.model.cross_fitting import fitted_heads, folds_of
from pfedbayespt.model.generator import dropout_mask
from pfedbayespt.model.objective import beta_at, divergence, pull
from pfedbayespt.model.readout import log_class_prior
from pfedbayespt.model.sources import class_frequencies
from pfedbayespt.model.training import learning_rate_share, parameter_groups

Parameters = dict[str, Tensor]
Penalty = Callable[[Parameters], Tensor]
Noises = tuple[Tensor, Tensor, Tensor | None]
View = Callable[[Parameters], Parameters]
Condition = Callable[["Fleet"], Tensor]
"""From a fleet to what the generator reads of every image, [1, N, F] or, if sites differ in it, [C, N, F]."""


class _Drawn(nn.Module):
    """The posterior's draw and its KL as a forward pass, which is what `functional_call` takes."""

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.posterior, self.readout = model.posterior, model.readout

    def forward(
        self, features: Tensor, noise: Tensor, mixing: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        draw = self.posterior.draw(features, noise, mixing, mask)
        return draw.prompts, draw.central_prompt, divergence(draw).kl


@dataclass(frozen=True)
class Answers:
    """Predictions on the sites' test images, [C, N] each (probabilities [C, N, K])."""

    probabilities: Tensor
    labels: Tensor
    epistemic: Tensor
    domains: Tensor


@dataclass(frozen=True)
class Control:
    """What is taken away at test from a trained model, to see whether it did anything.

    Attributes:
        shuffle: each image gets the prompt of another one.
        without_eps: no mixing noise.
        without_u: no explicit noise.
        num_samples: S, if another one.
    """

    shuffle: bool = False
    without_eps: bool = False
    without_u: bool = False
    num_samples: int | None = None


_AS_TRAINED = Control()


class Fleet:
    """The sites of one federation, with the model that they all train.

    Attributes:
        parts: the trainable module whose parameters are stacked.
        initial: one model's parameters, version 0.
        num_sites: C.
    """

    def __init__(
        self,
        encoded: Encoded,
        train: np.ndarray,
        test: np.ndarray,
        config: ModelConfig,
        training: TrainingConfig,
        *,
        condition: Condition | None = None,
        frozen_readout: bool = False,
        num_rounds: int | None = None,
    ) -> None:
        self.encoded, self.training, self.config = encoded, training, config
        self.train_indices, self.test_indices = torch.from_numpy(train), torch.from_numpy(test)
        self.labels = torch.from_numpy(encoded.pool.labels).long()
        self.domains = torch.from_numpy(encoded.pool.domains).long()
        self.num_sites = len(train)
        self.frozen_readout, self.num_rounds = frozen_readout, num_rounds
        generator = torch.Generator().manual_seed(training.seed)
        self.model = build_classifier(config, encoded.backbone, generator)
        self._set_statistics()
        self.parts = _Drawn(self.model)
        self.initial = {n: p.detach().clone() for n, p in self.parts.named_parameters()}
        self.log_prior = self._log_prior()
        self.folds = self._folds()
        self.features = self.model.feature_moments(encoded.context.features)
        self.condition = self.features[None] if condition is None else condition(self)

    def stack(self, parameters: Parameters) -> Parameters:
        """Give every site a copy."""
        return {n: p.expand(self.num_sites, *p.shape).clone() for n, p in parameters.items()}

    def train(
        self,
        start: Parameters,
        round_number: int,
        *,
        epochs: int | None = None,
        trainable: Callable[[str], bool] = lambda _: True,
        penalty: Penalty | None = None,
        view: View = lambda parameters: parameters,
        num_rounds: int | None = None,
    ) -> Parameters:
        """Run local epochs at every site at once and return the sites' parameters.

        Args:
            start: stacked parameters.
            round_number: from 1.
            epochs: the training configuration's if None.
            trainable: which parameters move.
            penalty: a further loss per site, [C], of the stacked parameters.
            view: from the trained parameters to those that predict (mixtures of models).
            num_rounds: over which the learning rates fall; the fleet's if None.
        """
        values = {n: p.clone().requires_grad_(trainable(n)) for n, p in start.items()}
        moving = [n for n in values if values[n].requires_grad]
        share = learning_rate_share(self.training, round_number, num_rounds or self.num_rounds)
        groups = parameter_groups({n: values[n] for n in moving}, self.training, share)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.training.weight_decay, fused=True)
        centre = start["posterior.mean"].detach()
        streams = [self._streams(round_number, site) for site in range(self.num_sites)]
        for _ in range(self.training.local_epochs if epochs is None else epochs):
            for indices, noises in self._batches(streams):
                loss = self._loss(view(values), indices, noises, round_number, centre)
                total = loss if penalty is None else loss + penalty(values)
                total.sum().backward()
                self._clip([values[n] for n in moving if not is_residual(n)])
                self._clip([values[n] for n in moving if is_residual(n)])
                optimizer.step()
                optimizer.zero_grad()
        trained = {n: p.detach() for n, p in values.items()}
        return trained if self.folds is None else self.fit_heads(trained, self.central_readouts(trained))

    @torch.no_grad()
    def answer(self, parameters: Parameters, num_samples: int, control: Control = _AS_TRAINED) -> Answers:
        """Predict every site's test images with its row of `parameters`, its class prior added if trained so.

        Args:
            parameters: stacked.
            num_samples: S.
            control: what is taken away.
        """
        return self.answer_from(self.test_readouts(parameters, num_samples, control), parameters)

    @torch.no_grad()
    def test_readouts(
        self, parameters: Parameters, num_samples: int, control: Control = _AS_TRAINED
    ) -> Tensor:
        """Return the standardised read-out of every test image, [C, N, S, R]; the head plays no part in it."""
        noise_generator = torch.Generator().manual_seed(97)
        posterior = self.model.posterior
        chunks = []
        for indices in self.test_indices.split(26, dim=1):
            samples = (control.num_samples or num_samples) if posterior.noise_width else 1
            noise = torch.randn(*indices.shape, samples, posterior.noise_width, generator=noise_generator)
            noise[..., : posterior.noise_dim] *= not control.without_eps
            noise[..., posterior.noise_dim :] *= not control.without_u
            mixing = noise.new_zeros(*indices.shape, 0, posterior.noise_dim)
            chunks.append(self._read(parameters, indices, noise, mixing, None, shuffle=control.shuffle)[0])
        return torch.cat(chunks, dim=1)

    @torch.no_grad()
    def answer_from(self, readout: Tensor, parameters: Parameters) -> Answers:
        """Predict from the read-outs of the test images with the heads of `parameters`."""
        drawn = self._predicted(parameters, readout).softmax(-1)
        mean = drawn.mean(2)
        epistemic = _entropy(mean) - _entropy(drawn).mean(2)
        return Answers(mean, self.labels[self.test_indices], epistemic, self.domains[self.test_indices])

    def answer_unseen(self, parameters: Parameters, test: np.ndarray, num_samples: int) -> Answers:
        """Predict the images [U, N] of sites that never trained: the sites' mean, no class prior, no residual."""
        stranger = copy(self)
        stranger.num_sites, stranger.test_indices = len(test), torch.from_numpy(test)
        stranger.log_prior, stranger.condition = None, self.condition.mean(0, keepdim=True)
        mean = {n: torch.zeros_like(p) if is_residual(n) else p for n, p in average(parameters).items()}
        return stranger.answer(stranger.stack(mean), num_samples)

    def readouts(self, indices: Tensor) -> Tensor:
        """Return the standardised read-out of the frozen trunk."""
        return self.model.readout_moments(self.encoded.readout[indices])

    @torch.no_grad()
    def central_readouts(self, parameters: Parameters) -> Tensor:
        """Return the standardised read-out of every training image under its central prompt, [C, N, R]."""
        posterior = self.model.posterior
        chunks = []
        for indices in self.train_indices.split(24, dim=1):
            noise = torch.zeros(*indices.shape, 1, posterior.noise_width)
            mixing = noise.new_zeros(*indices.shape, 0, posterior.noise_dim)
            chunks.append(self._read(parameters, indices, noise, mixing, None)[0].squeeze(2))
        return torch.cat(chunks, dim=1)

    def fit_heads(self, parameters: Parameters, readout: Tensor) -> Parameters:
        """Return `parameters` with every site's heads fitted in closed form over its read-outs, [C, N, R]."""
        fitted = [
            fitted_heads(
                self.config.head,
                readout[site],
                self.labels[mine],
                self.folds[mine],
                {n.removeprefix("readout."): p[site] for n, p in parameters.items() if is_head(n)},
                self.model.class_frequencies,
            )
            for site, mine in enumerate(self.train_indices)
        ]
        return parameters | {f"readout.{n}": torch.stack([heads[n] for heads in fitted]) for n in fitted[0]}

    def _read(
        self,
        parameters: Parameters,
        indices: Tensor,
        noise: Tensor,
        mixing: Tensor,
        mask: Tensor | None,
        *,
        shuffle: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the standardised read-out [C, B, S, R] and the KL [C, B, S]."""
        sites, batch = indices.shape
        if self.frozen_readout:
            readout = self.readouts(indices)[:, :, None]
            return readout, readout.new_zeros(sites, batch, 1)
        context = self.encoded.context.select(indices.flatten())
        own_table = torch.arange(sites)[:, None] if len(self.condition) > 1 else 0
        features = self.condition[own_table, indices]
        prompts, central, kl = vmap(self._draw, in_dims=(0, 0, 0, 0, None if mask is None else 0))(
            parameters, features, noise, mixing, mask
        )
        if shuffle:
            prompts, central = prompts.roll(1, dims=1), central.roll(1, dims=1)
        readout = self.model.insertion.decode(context, prompts.flatten(0, 1), central.flatten(0, 1))
        return self.model.readout_moments(readout).view(sites, batch, *readout.shape[1:]), kl

    def _predicted(self, parameters: Parameters, readout: Tensor) -> Tensor:
        """Return the logits that a site answers with: a personal residual has learned its class prior."""
        logits = linear(parameters, "readout.head", readout)
        if self.config.head.personal_residual:
            return logits + linear(parameters, "readout.residual", readout)
        return logits if self.log_prior is None else logits + self.log_prior[:, None, None]

    def _draw(
        self, parameters: Parameters, features: Tensor, noise: Tensor, mixing: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor] = functional_call(
            self.parts, parameters, (features, noise, mixing, mask)
        )
        return result

    def _loss(
        self,
        parameters: Parameters,
        indices: Tensor,
        noises: Noises,
        round_number: int,
        centre: Tensor,
    ) -> Tensor:
        """Return the product's objective per site, [C], and the residual's own loss with it."""
        readout, kl = self._read(parameters, indices, *noises)
        logits = self._held_out_logits(parameters, readout, indices)
        if self.log_prior is not None:
            logits = logits + self.log_prior[:, None, None]
        loss = self._cross_entropy(logits, indices)
        if self.config.head.personal_residual:
            fixed = readout.detach()
            shared = linear(parameters, "readout.head", fixed).detach()
            residual = linear(parameters, "readout.residual", fixed)
            loss = loss + self._cross_entropy(shared + residual, indices)
        posterior = self.model.posterior
        if posterior.latent_size == 0 or self.frozen_readout:
            return loss
        beta = beta_at(self.training.beta, self.training.beta_warmup_rounds, round_number)
        scale = posterior.config.prompt_scale * posterior.prompt_scale
        drift = vmap(pull, in_dims=(0, 0, None))(parameters["posterior.mean"], centre, scale)
        return loss + beta * (kl.mean((1, 2)) / posterior.latent_size + drift)

    def _held_out_logits(self, parameters: Parameters, readout: Tensor, indices: Tensor) -> Tensor:
        """Return the logits that prompts are trained on, [C, B, S, K], as `ReadOut.held_out_logits`."""
        if self.folds is None:
            return linear(parameters, "readout.head", readout)
        fixed = {n: p.detach() for n, p in parameters.items() if is_head(n)}
        every = linear(fixed, "readout.folds", readout).unflatten(3, (-1, self.config.num_classes))
        return every.take_along_dim(self.folds[indices][..., None, None, None], dim=3).squeeze(3)

    def _cross_entropy(self, logits: Tensor, indices: Tensor) -> Tensor:
        targets = self.labels[indices][..., None, None].expand(*logits.shape[:3], 1)
        return -logits.log_softmax(-1).gather(-1, targets).mean((1, 2, 3))

    def _streams(self, round_number: int, site: int) -> tuple[torch.Generator, torch.Generator]:
        sequence = np.random.SeedSequence([self.training.seed, round_number, site])
        noise, order = (int(word) for word in sequence.generate_state(2, np.uint64))
        return torch.Generator().manual_seed(noise), torch.Generator().manual_seed(order)

    def _batches(
        self, streams: list[tuple[torch.Generator, torch.Generator]]
    ) -> Iterator[tuple[Tensor, Noises]]:
        """Yield the pool indices of each step, [C, B], and its noise."""
        count = self.train_indices.shape[1]
        orders = torch.stack([torch.randperm(count, generator=order) for _, order in streams])
        shuffled = self.train_indices.gather(1, orders)
        for indices in shuffled.tensor_split(math.ceil(count / self.training.batch_size), dim=1):
            yield indices, self._noise(indices.shape[1], [noise for noise, _ in streams])

    def _noise(self, batch: int, generators: list[torch.Generator]) -> Noises:
        posterior, config = self.model.posterior, self.training
        num_mixing = config.num_mixing_samples if posterior.noise_dim else 0
        noise, mixing, masks = [], [], []
        for generator in generators:
            noise.append(
                torch.randn(batch, config.num_train_samples, posterior.noise_width, generator=generator)
            )
            mixing.append(torch.randn(batch, num_mixing, posterior.noise_dim, generator=generator))
            shape, rate = (batch, posterior.config.hidden_dim), posterior.config.dropout
            masks.append(dropout_mask(shape, rate, generator=generator, device=torch.device("cpu")))
        drawn = [mask for mask in masks if mask is not None]
        return torch.stack(noise), torch.stack(mixing), torch.stack(drawn) if drawn else None

    def _clip(self, tensors: list[Tensor]) -> None:
        grads = [t.grad for t in tensors if t.grad is not None]
        if not grads:
            return
        norm = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
        factor = (self.training.gradient_clip_norm / (norm + 1e-6)).clamp_max(1.0)
        for grad in grads:
            grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)))

    def _set_statistics(self) -> None:
        """Pool the moments and classes of the sites' training images, as the statistics round does."""
        mine = self.train_indices.flatten()
        for moments, values in (
            (self.model.feature_moments, self.encoded.context.features[mine]),
            (self.model.readout_moments, self.encoded.readout[mine]),
        ):
            exact = values.double()
            moments.mean.copy_(exact.mean(0))
            moments.second_moment.copy_(exact.square().mean(0))
        if self.model.class_frequencies is not None:
            self.model.class_frequencies.copy_(class_frequencies(self.labels[mine], self.config.num_classes))

    def _folds(self) -> Tensor | None:
        """Return the fold of every image that a site trains on."""
        if not self.config.head.cross_fit_folds:
            return None
        folds = torch.zeros_like(self.labels)
        for mine in self.train_indices:
            folds[mine] = folds_of(self.labels[mine], self.config.head.cross_fit_folds)
        return folds

    def _log_prior(self) -> Tensor | None:
        if not self.config.head.label_shift:
            return None
        labels = self.labels[self.train_indices]
        return torch.stack([log_class_prior(row, self.config.num_classes) for row in labels])


def average(parameters: Parameters) -> Parameters:
    """Return the mean over sites, which all hold equally many images."""
    return {name: value.mean(0) for name, value in parameters.items()}


def is_residual(name: str) -> bool:
    """Say whether a parameter is part of the personal residual."""
    return name.startswith("readout.residual.")


def is_head(name: str) -> bool:
    """Say whether a parameter belongs to a head, shared or personal."""
    return name.startswith("readout.")


def federate(own: Parameters, personal: Callable[[str], bool] = is_residual) -> Parameters:
    """Return what the sites hold after a round: the mean, but of what is personal their own."""
    size = len(next(iter(own.values())))
    return {
        n: p if personal(n) else p.mean(0, keepdim=True).expand(size, *p.shape[1:]) for n, p in own.items()
    }


def linear(parameters: Parameters, layer: str, inputs: Tensor) -> Tensor:
    """Apply each site's own linear layer to its inputs [C, B, S, R]."""
    weight, bias = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
    outputs = torch.baddbmm(bias[:, None], inputs.flatten(1, 2), weight.transpose(1, 2))
    return outputs.view(*inputs.shape[:3], -1)


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)
