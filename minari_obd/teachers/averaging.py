"""Averaged actors: the mean of the weights of the last updates, and the choice between it and the last of them."""

import copy
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

__all__ = ["ActorAverage"]


class ActorAverage:
    """Running mean of an actor's weights over the last updates of its training.

    An actor that follows critics wanders; the mean of where it has been (Polyak averaging; stochastic weight
    averaging, Izmailov et al. 2018, arXiv 1803.05407) is steadier. Whether it is better is asked of the data alone:
    the loss that trained the actor, with the last critics, on transitions of the data.
    """

    def __init__(self, algo: Any, first: int) -> None:
        self._algo = algo
        self._first = first
        self.module = AveragedModel(algo.impl.policy)
        """The averaged actor, with the number of updates that it averages."""

    def note(self, step: int) -> None:
        """Take the actor in as it is after update ``step``, if that is one of those to average."""
        if step >= self._first:
            self.module.update_parameters(self._algo.impl.policy)

    def losses(self, batch: Any, seed: int) -> dict[str, float]:
        """The actor's own loss on a batch of transitions: of the ``average`` and of the ``last`` weights."""
        policy = self._algo.impl.policy
        last = _copy(policy)
        found = {}
        for name, weights in (("last", last), ("average", self.weights)):
            policy.load_state_dict(weights)
            found[name] = self._loss(batch, seed)
        policy.load_state_dict(last)
        return found

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The averaged weights, as the actor names them."""
        return _copy(self.module.module)

    def _loss(self, batch: Any, seed: int) -> float:
        """Loss of the actor as it is; what d3rlpy changes beside it, such as a temperature, is put back."""
        impl = self._algo.impl
        parts = [getattr(part, "optim", part) for part in vars(impl.modules).values() if part is not None]
        before = [copy.deepcopy(part.state_dict()) for part in parts]
        torch.manual_seed(seed)  # the same noise for both actors
        loss = float(impl.compute_actor_loss(batch, impl.policy(batch.observations)).actor_loss.detach())
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        return loss


def _copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
