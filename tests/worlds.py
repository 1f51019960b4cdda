"""Toy worlds with known optima, that planners can be held to."""

from dataclasses import dataclass, field

import numpy as np
import torch

UNIT_BOX = (-np.ones(2), np.ones(2))


def quadratic_cost(target):
    """Squared distance of a whole sequence to a target (H, A): the optimum is the target, clipped."""
    return lambda actions: (actions - target).square().sum(dim=(2, 3))


@dataclass
class LinearQuadratic:
    """x' = A x + B u with a quadratic cost, as in the two published optima."""

    dynamics: np.ndarray
    control: np.ndarray
    state_weight: np.ndarray
    control_weight: np.ndarray
    start: np.ndarray
    horizon: int
    half: bool = False

    @classmethod
    def integrator(cls):
        """Optimal cost 6.149333, first action -1.666011."""
        return cls(
            dynamics=np.array([[1.0, 1], [0, 1]]),
            control=np.array([[0.0], [1]]),
            state_weight=np.eye(2),
            control_weight=np.eye(1),
            start=np.ones(2),
            horizon=10,
            half=True,
        )

    @classmethod
    def double_integrator(cls):
        """Optimal cost 6.022229."""
        return cls(
            dynamics=np.array([[1, 0.1], [0, 1]]),
            control=np.array([[0.005], [0.1]]),
            state_weight=np.diag([1, 0.1]),
            control_weight=np.array([[0.01]]),
            start=np.array([1.0, 0]),
            horizon=20,
        )

    def cost(self, actions):
        """Cost (B, N) of actions (B, N, H, 1), the final state included, in the float type of the actions."""
        dynamics, control, weight, effort = (
            torch.as_tensor(matrix).to(actions)
            for matrix in (self.dynamics, self.control, self.state_weight, self.control_weight)
        )
        state = torch.as_tensor(self.start).to(actions).expand(*actions.shape[:2], -1)
        total = ((state @ weight) * state).sum(-1)
        for step in range(self.horizon):
            action = actions[:, :, step]
            state = state @ dynamics.T + action @ control.T
            total = total + ((state @ weight) * state).sum(-1) + ((action @ effort) * action).sum(-1)
        return total / 2 if self.half else total

    def condensed(self):
        """(P, q, r): the cost is U'PU + 2 q'U + r over the whole sequence U."""
        steps, numbers = self.horizon, self.control.shape[1]
        free = self.start
        forced = np.zeros((len(free), steps * numbers))
        quadratic = np.kron(np.eye(steps), self.control_weight)
        linear, constant = np.zeros(steps * numbers), free @ self.state_weight @ free
        for step in range(steps):
            free, forced = self.dynamics @ free, self.dynamics @ forced
            forced[:, step * numbers : (step + 1) * numbers] += self.control
            quadratic = quadratic + forced.T @ self.state_weight @ forced
            linear = linear + forced.T @ self.state_weight @ free
            constant += free @ self.state_weight @ free
        scale = 0.5 if self.half else 1.0
        return scale * quadratic, scale * linear, scale * constant

    def optimum(self):
        """(optimal cost, optimal sequence) without bounds."""
        quadratic, linear, constant = self.condensed()
        actions = -np.linalg.solve(quadratic, linear)
        return float(constant + linear @ actions), actions


class PointWorld:
    """A point on a plane: a model step moves it by `speed` times the action; its picture tells where it is.

    The latent is the position, read off the first pixels of the picture. It counts what it is asked.
    """

    history = 2

    def __init__(self, frame_skip=1, speed=0.2, action_dim=2):
        self.frame_skip = frame_skip
        self.speed = speed
        self.action_dim = action_dim
        self.frames_encoded = 0
        self.rollouts = 0
        self.contexts = []

    def encode(self, frames, proprio=None):
        self.frames_encoded += frames.shape[0] * frames.shape[1]
        pixels = frames[:, :, 0, :2].to(torch.float32)
        return (pixels[..., 0] * 256 + pixels[..., 1]) / 65535 * 4 - 2

    def rollout(self, context, actions):
        self.rollouts += 1
        self.contexts.append(context)
        moves = actions.unflatten(-1, (-1, 2)).mean(dim=-2)
        return context[:, None, -1:, :] + self.speed * moves.cumsum(dim=2)


def picture(position):
    """The (4, 4, 3) uint8 picture of a position (2,) in [-2, 2]; positions (B, 2) give (B, 4, 4, 3)."""
    position = np.asarray(position, dtype=np.float64)
    number = np.clip(np.round((position + 2) / 4 * 65535), 0, 65535).astype(int)
    frames = np.zeros((*position.shape[:-1], 4, 4, 3), dtype=np.uint8)
    frames[..., 0, :2, 0] = number // 256
    frames[..., 0, :2, 1] = number % 256
    return frames


@dataclass
class PointEnv:
    """The plane itself, exactly as `PointWorld` imagines it, for B points at once."""

    position: np.ndarray
    frame_skip: int = 1
    speed: float = 0.2
    actions: list = field(default_factory=list)

    def observe(self):
        return {"pixels": picture(self.position)}

    def step(self, action):
        self.actions.append(np.array(action))
        self.position = self.position + self.speed / self.frame_skip * action
        return self.observe()
