"""Several objectives over one pass of one encoder per view, summed with weights that may change over the run.

Entries of the FOMO25 challenge (arXiv 2604.11679) that joined reconstruction and contrast led in classification and
regression; `conf/objective/hybrid_*.yaml` follow three of them.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.objectives.base import Encoded, Mask, Objective, ObjectiveOutput, Preview, objectives

Weight = float | int | Mapping[str, float | int] | Sequence[Sequence[float | int]]
"""A constant, a linear ramp {start, end, steps} that stays at `end`, or points [step, weight] joined by lines."""


def weight_at(weight: Weight, step: int) -> float:
    """The value of a weight at an optimizer step; before the first and after the last point it stays as there."""
    if isinstance(weight, Mapping):
        weight = [[0, weight["start"]], [weight["steps"], weight["end"]]]
    if not isinstance(weight, Sequence):
        return float(weight)
    after = bisect_right([at for at, _ in weight], step)
    if after in (0, len(weight)):
        return float(weight[min(after, len(weight) - 1)][1])
    (start, low), (end, high) = weight[after - 1], weight[after]
    return low + (high - low) * (step - start) / (end - start)


def richest(specs: list[ViewSpec]) -> ViewSpec:
    """The views that satisfy every spec: the most views, and the one pairing and largest overlap that is asked for.

    Raises:
        ConfigError: two specs ask for different pairings.
    """
    pairings = {spec.pairing for spec in specs} - {"single"}
    if len(pairings) > 1:
        raise ConfigError(
            f"members of a hybrid ask for different pairings: {', '.join(sorted(pairings))}",
            way_out="give every member the same pairing",
        )
    return ViewSpec(
        n=max(spec.n for spec in specs),
        pairing=pairings.pop() if pairings else "single",
        min_overlap=max((spec.min_overlap for spec in specs if spec.pairing != "single"), default=0.0),
        valid=any(spec.valid for spec in specs),
        together=any(spec.together for spec in specs),
        placed=any(spec.placed for spec in specs),
    )


def one_momentum(members: Mapping[str, Objective]) -> float | None:
    """The momentum of the teacher that all members with a teacher share.

    Raises:
        ConfigError: they keep different momenta.
    """
    momenta = {label: member.momentum for label, member in members.items() if member.momentum is not None}
    if len(set(momenta.values())) > 1:
        raise ConfigError(
            f"members of a hybrid share one teacher, but ask for different momenta: {momenta}",
            way_out="give every member the same momentum",
        )
    return next(iter(momenta.values()), None)


@objectives.register("hybrid")
class Hybrid(Objective):
    """A weighted sum of objectives that share the encoder's passes.

    At most one member may hide part of the views; all members then score what the encoder made of the visible rest.
    Members with a teacher share one, and its one pass per view.

    Args:
        encoder: any encoder that the members accept.
        members: arguments of each member under its label; the objective is the entry `name`, by default the label.
        weights: per label, a number, a ramp {start, end, steps} in optimizer steps, or points [[step, weight], ...].

    Raises:
        ConfigError: weights and members differ, two members hide something, a member cuts crops of its own, or pairings
            or momenta differ.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        members: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Mapping[str, Weight] | None = None,
    ) -> None:
        members = members or {"mae": {}, "contrastive": {}}
        weights = weights or {"mae": 1.0, "contrastive": 0.1}
        _check_weights(members, weights)
        built = {label: _create(label, encoder, arguments) for label, arguments in members.items()}
        recut = [label for label, member in built.items() if member.recuts]
        if recut:
            raise ConfigError(
                f"member {recut[0]} of a hybrid cuts crops of its own and shares no pass", way_out="train with it alone"
            )
        super().__init__(encoder, richest([member.views for member in built.values()]), one_momentum(built))
        hiding = [label for label, member in built.items() if member.hides]
        if len(hiding) > 1:
            raise ConfigError(f"members {', '.join(hiding)} of a hybrid hide something", way_out="keep one of them")
        self.hides, self._hider = bool(hiding), next(iter(hiding), None)
        self.reconstructs = any(member.reconstructs for member in built.values())
        if self._hider is not None:
            self.mask_unit = built[self._hider].mask_unit
        for member in built.values():
            member.borrow_encoder()
        self.members = nn.ModuleDict(built)
        self.weights = dict(weights)
        self._names = {label: str(arguments.get("name", label)) for label, arguments in members.items()}

    def _each(self) -> Iterator[tuple[str, Objective]]:
        for label, member in self.members.items():
            assert isinstance(member, Objective)
            yield label, member

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "b c x y z"]]:
        """What the member that hides something shows of the views."""
        for label, member in self._each():
            if label == self._hider:
                return member.inputs(views, step)
        return super().inputs(views, step)

    def masks(self, views: Views, step: int) -> list[Mask | None]:
        """The masks of the member that hides something."""
        for label, member in self._each():
            if label == self._hider:
                return member.masks(views, step)
        return super().masks(views, step)

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """The members' losses, weighted; their terms and monitors side by side, under the members' labels."""
        loss = encoded[0].embedding.new_zeros((), dtype=torch.float32)
        total = ObjectiveOutput(loss=loss)
        for label, member in self._each():
            part = member.score(encoded, views, step)
            weight = weight_at(self.weights[label], step)
            total.loss = total.loss + weight * part.loss
            total.terms |= self._labelled(part.terms, label) | {f"hybrid/weight_{label}": loss.new_full((), weight)}
            total.health |= self._labelled(part.health, label)
        total.terms["hybrid/loss"] = total.loss.detach()
        return total

    def _labelled(self, parts: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
        """Under the member's label in place of its objective's name, which another member may have too."""
        own = f"{self._names[label]}/"
        return {f"{label}/{k.removeprefix(own)}" if k.startswith(own) else k: value for k, value in parts.items()}

    def after_step(self, step: int) -> None:
        """Move the teacher, and let every member move its slow heads and queue."""
        super().after_step(step)
        for _, member in self._each():
            member.after_step(step)

    def preview(self, views: Views) -> Preview | None:
        """The pictures of the first member that has some."""
        pictures = (member.preview(views) for _, member in self._each())
        return next((preview for preview in pictures if preview is not None), None)


def _create(label: str, encoder: Encoder, arguments: Mapping[str, Any]) -> Objective:
    own = dict(arguments)
    return objectives.create(own.pop("name", label), encoder=encoder, **own)


def _check_weights(members: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Weight]) -> None:
    if set(members) != set(weights):
        raise ConfigError(
            f"hybrid has members {', '.join(sorted(members))} but weights for {', '.join(sorted(weights))}",
            way_out="give every member one weight",
        )
    for label, weight in weights.items():
        if not isinstance(weight, int | float | Mapping | Sequence):
            raise ConfigError(f"weight of {label!r} is {weight}", way_out="give a number, a ramp or points")
        if isinstance(weight, Mapping) and (set(weight) != {"start", "end", "steps"} or weight["steps"] <= 0):
            raise ConfigError(
                f"weight of {label!r} is neither a number nor a ramp: {dict(weight)}",
                way_out="a ramp has start, end and a positive number of steps",
            )
        if isinstance(weight, Sequence) and not _rises(weight):
            raise ConfigError(
                f"weight of {label!r} is no row of points: {weight}",
                way_out="points are [step, weight] with rising steps, such as [[0, 0.05], [5000, 0.95]]",
            )


def _rises(points: Sequence[Any]) -> bool:
    pairs = bool(points) and all(isinstance(point, Sequence) and len(point) == 2 for point in points)
    return pairs and all(before[0] < after[0] for before, after in pairwise(points))
