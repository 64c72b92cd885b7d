"""Labels of 0 and 1, no and yes, as targets: their share in the training set, their weights, their loss."""

import math

import numpy as np

from atomslim.data.mixing import TaskData
from atomslim.data.normalise import TargetScale
from atomslim.errors import DataError
from atomslim.evaluation.classification import require_labels
from atomslim.models.losses import Term
from atomslim.models.tasks import PROBABILITY, Target
from atomslim.train.options import ClassWeights, TargetOptions


def base_rate(train: TaskData, name: str) -> TargetScale:
    """Return the share of yes among a label of the training structures, as its mean.

    Raises DataError for a label that is neither 0 nor 1, and unless there are both.
    """
    values: list[float] = []
    for place in range(len(train)):
        sample = train[place]
        label = sample.label(name)
        if label is not None:
            require_labels(label.reshape(1), name, [sample.name])
            values.append(float(label))
    share = float(np.mean(values))
    if share in {0.0, 1.0}:
        raise DataError(
            f"{train.dataset.name}: {name} is {share:g} in all {len(values)} structures for training that have it: "
            "there is nothing to tell apart; choose another split, or leave it out"
        )
    return TargetScale(mean=share, count=len(values))


def class_target(name: str, options: TargetOptions, scale: TargetScale) -> Target:
    """Return the target of a label: a head of zeros gives the share of yes, or one half of balanced classes."""
    mean = 0.0 if options.class_weights == "balanced" else math.log(scale.mean / (1 - scale.mean))
    return Target(
        name=name, kind="binary", reduction=options.reduction, unit=PROBABILITY, mean=mean, base_rate=scale.mean
    )


def class_term(task: str, head: Target, options: TargetOptions, scale: TargetScale) -> Term:
    """Return what a label contributes to the loss."""
    weight = positive_weight(scale.mean) if options.class_weights == "balanced" else 1.0
    return Term(task, head.name, options.weight, options.loss, head.std, 1.0, head, positive_weight=weight)


def own_share(target: Target) -> TargetScale:
    """Return the share of yes that a model's target was trained with."""
    share = 1 / (1 + math.exp(-target.mean)) if target.base_rate is None else target.base_rate
    return TargetScale(mean=share, count=1)


def positive_weight(share: float) -> float:
    """Return the weight of yes that makes both classes count alike, from the share of yes."""
    return (1 - share) / share


def class_note(name: str, scale: TargetScale, weights: ClassWeights) -> str:
    """Say how many labels are yes, and how they are weighed."""
    weight = positive_weight(scale.mean)
    text = f"{name}: yes for {scale.mean * scale.count:.0f} of {scale.count} labels for training ({scale.mean:.1%}); "
    if weights == "balanced":
        return (
            text + f"class_weights=balanced: yes counts {weight:.3g} times, and probabilities are of balanced classes"
        )
    return text + f"class_weights=none: all count alike (balanced: yes {weight:.3g} times)"
