"""Heads in closed form, cross-fitted: prompts are trained against a head that has not seen their image.

A site deals its images to F folds. After training it fits, for every fold f and once for all images,

    V_f = argmin sum_{i: fold(i) != f} w_i |y_i - 1/C - V z_i|^2 + lambda_f R |V - kappa W_f|^2
    W_f' = kappa W_f + omega (V_f - kappa W_f)

over the standardised read-outs z_i in R^R, with a one for the bias, under the central prompt, y_i one-hot, W_f what
the round began with. V_f is the posterior mean of a Gaussian model whose prior is centred on the federation's head,
and omega in (0, 2) steps beyond it. Logits are s W z. The coordinator's mean over sites is the next round's, so
round by round it nears the head of all sites' images; omega is above 1 since every site sees other directions than
the rest, and a mean of steps that are right for one site each is too short for all. lambda_f is `fold_ridge`, and
`ridge` for all images: a head that fits less closely leaves prompts more to learn (docs/adr/0007).

-log softmax(W_{fold(i)} z_i + b_{fold(i)})_{y_i} trains prompts and generator. A head that is trained along with
the prompts fits the training images long before the prompts have learned anything, and then no gradient is left;
this loss is one on images that the head has not seen (docs/adr/0004).

Rules:
1. w_i = 1, or with `label_shift` so that every class weighs the same over all sites' images, their mean being 1.
2. Within a round all heads stay what the round began with; they are fitted once, at its end.

Source: cross-fitting as in Chernozhukov et al., "Double/debiased machine learning", 2018; the ridge regression on
one-hot labels as in Fani et al. (Fed3R), ICML 2024; the relaxed mean of the parts' solutions as in Cimmino's method
(Censor and Zenios, "Parallel Optimization", 1997). To train prompts so is this project's choice.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, one_hot

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.config import HeadConfig
from pfedbayespt.model.sources import ContextSource

_CHUNK = 32


def folds_of(labels: Int[Tensor, " N"], num_folds: int) -> Int[Tensor, " N"]:
    """Return each image's fold: the images of each class are dealt in turn, so folds have all classes alike."""
    order = labels.argsort(stable=True)
    folds = torch.empty_like(labels)
    folds[order] = torch.arange(len(labels), device=labels.device) % num_folds
    return folds


def class_weights(labels: Int[Tensor, " N"], frequencies: Float[Tensor, " C"]) -> Float[Tensor, " N"]:
    """Return weights under which every class weighs the same where it has these frequencies; their mean is 1 there.

    A class that has none counts as the rarest that has some.
    """
    occurring = frequencies > 0
    rarest = frequencies[occurring].min()
    return 1 / (occurring.sum() * frequencies.clamp_min(rarest)[labels])


def ridge_regression(
    inputs: Float[Tensor, "N R"],
    targets: Float[Tensor, "N C"],
    weights: Float[Tensor, " N"],
    ridge: float,
) -> tuple[Float[Tensor, "C R"], Float[Tensor, " C"]]:
    """Return W and b of the weighted ridge regression, solved in float64 in the smaller of the two spaces.

    Args:
        inputs: z.
        targets: y.
        weights: w.
        ridge: what is added to the diagonal, for b as well.
    """
    root = weights.double().sqrt()[:, None]
    rows = torch.cat([inputs.double(), inputs.new_ones(len(inputs), 1).double()], 1) * root
    wanted = targets.double() * root
    if len(rows) < rows.shape[1]:
        solved = rows.T @ torch.linalg.solve(_plus_ridge(rows @ rows.T, ridge), wanted)
    else:
        solved = torch.linalg.solve(_plus_ridge(rows.T @ rows, ridge), rows.T @ wanted)
    solution = solved.T.to(inputs.dtype)
    return solution[:, :-1], solution[:, -1]


@torch.no_grad()
def fit_heads(
    model: PromptedClassifier, source: ContextSource, labels: Int[Tensor, " N"], folds: Int[Tensor, " N"]
) -> None:
    """Set the model's head to that of all images, and the head of each fold to that of the others' images."""
    readout = _central_readouts(model, source)
    before = {name: parameter.detach().clone() for name, parameter in model.readout.named_parameters()}
    fitted_by_name = fitted_heads(model.config.head, readout, labels, folds, before, model.class_frequencies)
    for name, fitted in fitted_by_name.items():
        model.readout.get_parameter(name).copy_(fitted)


def fitted_heads(
    config: HeadConfig,
    readout: Float[Tensor, "N R"],
    labels: Int[Tensor, " N"],
    folds: Int[Tensor, " N"],
    before: Mapping[str, Tensor],
    frequencies: Float[Tensor, " C"] | None = None,
) -> dict[str, Tensor]:
    """Return `head.weight` and `head.bias` as one site fits them, and `folds.weight` and `folds.bias` if there are.

    Args:
        config: with heads in closed form.
        readout: standardised.
        labels: of the same images.
        folds: of the same images.
        before: these parameters at the start of the round.
        frequencies: of the classes over all sites' images, if every class is to weigh the same.
    """
    weights = torch.ones_like(readout[:, 0]) if frequencies is None else class_weights(labels, frequencies)
    weight, bias = _fit(
        config, config.ridge, readout, labels, weights, (before["head.weight"], before["head.bias"])
    )
    head = {"head.weight": weight, "head.bias": bias}
    if "folds.weight" not in before:
        return head
    old = (before[f"folds.{part}"].chunk(config.cross_fit_folds) for part in ("weight", "bias"))
    others = []
    for fold, pair in enumerate(zip(*old, strict=True)):
        rest = folds != fold
        others.append(_fit(config, config.fold_ridge, readout[rest], labels[rest], weights[rest], pair))
    fold_weights, fold_biases = (torch.cat(parts) for parts in zip(*others, strict=True))
    return head | {"folds.weight": fold_weights, "folds.bias": fold_biases}


def _central_readouts(model: PromptedClassifier, source: ContextSource) -> Float[Tensor, "N R"]:
    """Return the standardised read-out of every image under its central prompt."""
    readouts = []
    for indices in torch.split(torch.arange(len(source)), _CHUNK):
        context = source.batch(indices)
        noise = model.posterior.mean.new_zeros(len(indices), 1, model.posterior.noise_width)
        readouts.append(model.read_out(context, model.draw(context, noise))[:, 0])
    return torch.cat(readouts)


def _fit(
    config: HeadConfig,
    ridge: float,
    readout: Float[Tensor, "N R"],
    labels: Int[Tensor, " N"],
    weights: Float[Tensor, " N"],
    before: tuple[Tensor, ...],
) -> tuple[Float[Tensor, "C R"], Float[Tensor, " C"]]:
    """Return `before`, moved towards the closed form over these images and beyond it."""
    centre = [config.carry_over / config.logit_scale * part for part in before]
    targets = one_hot(labels, len(centre[1])).to(readout.dtype)
    missed = targets - 1 / targets.shape[1] - linear(readout, *centre)
    change = ridge_regression(readout, missed, weights, ridge * readout.shape[1])
    weight, bias = (
        config.logit_scale * (old + config.relaxation * new) for old, new in zip(centre, change, strict=True)
    )
    return weight, bias


def _plus_ridge(gram: Float[Tensor, "M M"], ridge: float) -> Float[Tensor, "M M"]:
    return gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
