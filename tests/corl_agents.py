"""Agents as CORL has them: modules of its names and shapes, what they answer, and the dicts that it saves of them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

S, A = 5, 2
MEAN, SCALE = np.linspace(-2, 2, S), np.linspace(0.5, 3, S)
STATES = np.random.default_rng(0).normal(size=(64, S)) * SCALE + MEAN
ACTIONS = np.random.default_rng(1).uniform(-1, 1, size=(64, A))


def perceptron(*sizes: int, end: tuple[nn.Module, ...] = (), dropout: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), *([nn.Dropout(0.1)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]), *end)


class Within(nn.Module):
    """A module with one other inside, under the name that a checkpoint calls it by."""

    def __init__(self, **inside: nn.Module) -> None:
        super().__init__()
        for name, module in inside.items():
            self.add_module(name, module)


class Scalar(nn.Module):
    """One number that is learned: CORL pickles two of these whole, beside the weights."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.tensor(value))


class Trained:
    """An agent as CORL has it: networks, the optimisers' state after a step, and what its methods say."""

    def __init__(self, actor: nn.Module, critics: list[nn.Module], act: Callable, q: list[Callable]) -> None:
        self.actor, self.critics, self.act_scaled, self.q = actor, critics, act, q
        self.optimisers = [torch.optim.Adam(module.parameters(), 1e-3) for module in (actor, *critics)]
        inputs = torch.ones(1, S)
        (act(inputs).sum() + sum(each(torch.ones(1, S + A)).sum() for each in q)).backward()
        for optimiser in self.optimisers:
            optimiser.step()

    @torch.no_grad()
    def answers(self, highest: float) -> tuple[np.ndarray, np.ndarray]:
        inputs = torch.tensor((STATES - MEAN) / SCALE, dtype=torch.float32)
        pair = torch.cat([inputs, torch.tensor(highest * ACTIONS, dtype=torch.float32)], 1)
        actions = highest * self.act_scaled(inputs).numpy()
        return actions, np.minimum(*(each(pair).numpy()[:, 0] for each in self.q))


def calql(nested: bool = False) -> tuple[Trained, dict[str, Any]]:
    base, nets = perceptron(S, 16, 16, 16, 2 * A), [perceptron(S + A, 16, 16, 1), perceptron(S + A, 16, 16, 16, 1)]
    wrap = (lambda net: Within(network=net)) if nested else (lambda net: net)
    actor = Within(base_network=wrap(base), log_std_multiplier=Scalar(1.0), log_std_offset=Scalar(-1.0))
    critics: list[nn.Module] = [Within(network=wrap(net)) for net in nets]
    agent = Trained(actor, critics, lambda s: torch.tanh(base(s)[:, :A]), list(nets))
    log_alpha, log_prime = Scalar(0.0), Scalar(1.0)
    return agent, {
        "actor": actor.state_dict(),
        "critic1": critics[0].state_dict(),
        "critic2": critics[1].state_dict(),
        "critic1_target": critics[1].state_dict(),
        "critic2_target": critics[0].state_dict(),
        "critic_1_optimizer": agent.optimisers[1].state_dict(),
        "critic_2_optimizer": agent.optimisers[2].state_dict(),
        "actor_optim": agent.optimisers[0].state_dict(),
        "sac_log_alpha": log_alpha,
        "sac_log_alpha_optim": torch.optim.Adam(log_alpha.parameters()).state_dict(),
        "cql_log_alpha": log_prime,
        "cql_log_alpha_optim": torch.optim.Adam(log_prime.parameters()).state_dict(),
        "total_it": 1_000_000,
    }


def td3_bc() -> tuple[Trained, dict[str, Any]]:
    net, nets = perceptron(S, 16, 16, A, end=(nn.Tanh(),)), [perceptron(S + A, 16, 1) for _ in range(2)]
    actor, critics = Within(net=net), [Within(net=each) for each in nets]
    agent = Trained(actor, [*critics], net, list(nets))
    return agent, {
        "critic_1": critics[0].state_dict(),
        "critic_1_optimizer": agent.optimisers[1].state_dict(),
        "critic_2": critics[1].state_dict(),
        "critic_2_optimizer": agent.optimisers[2].state_dict(),
        "actor": actor.state_dict(),
        "actor_optimizer": agent.optimisers[0].state_dict(),
        "total_it": 500,
    }


def iql(gaussian: bool = True) -> tuple[Trained, dict[str, Any]]:
    net = perceptron(S, 16, 16, A, end=(nn.Tanh(),), dropout=not gaussian)
    nets = [perceptron(S + A, 16, 16, 1) for _ in range(2)]
    actor = Within(net=Within(net=net))
    if gaussian:
        actor.register_parameter("log_std", nn.Parameter(torch.zeros(A)))
    both = Within(q1=Within(net=nets[0]), q2=Within(net=nets[1]))
    agent = Trained(actor.eval(), [both], net, list(nets))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(agent.optimisers[0], 1000)
    return agent, {
        "qf": both.state_dict(),
        "q_optimizer": agent.optimisers[1].state_dict(),
        "vf": Within(v=Within(net=perceptron(S, 16, 1))).state_dict(),
        "actor": actor.state_dict(),
        "actor_optimizer": agent.optimisers[0].state_dict(),
        "actor_lr_schedule": schedule.state_dict(),
        "total_it": 7,
    }


AGENTS = {
    "cal_ql": calql,
    "cql_of_young_geng": lambda: calql(nested=True),
    "td3_bc": td3_bc,
    "iql": iql,
    "iql_deterministic": lambda: iql(gaussian=False),
}
