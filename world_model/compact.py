"""The compact world model: one small latent a frame, fast enough to plan in real time on one CPU core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .compact_config import CompactConfig
from .compact_predictors import make_predictor
from .distance_heads import make_distance
from .encoder import Encoder, Frames, load_encoder
from .ensemble import EnsemblePredictor
from .familiarity import FrozenEncoderModel
from .metadata import ModelMetadata
from .model_source import model_folder
from .precision import fast_products
from .reward import RewardHead
from .weights_io import load_folder, load_weights, save_folder

if TYPE_CHECKING:
    from .token_model import TokenWorldModel


class Keypoints(nn.Module):
    """Where in the frame learned things are: the mean places of maps that each sum to 1.

    What moves evenly in the frame moves evenly in the latent, so that a distance of latents is one of places,
    a turn is the way of two points, and what follows a push is a simple function of it. Numbers that any
    function gives bend: the turn of a T is in them, but not to a small predictor.

    Source: Finn et al., Deep Spatial Autoencoders, arXiv:1509.06113.
    """

    places: Tensor

    def __init__(self, grid_size: int, dim: int, number: int) -> None:
        """Build for a grid of `dim` channels."""
        super().__init__()
        self.grid_size = grid_size
        self.mix = nn.Conv2d(dim, dim, 3, padding=1)
        self.maps = nn.Conv2d(dim, number, 1)
        self.log_scale = nn.Parameter(torch.ones(()))
        steps = torch.linspace(-1, 1, grid_size)
        self.register_buffer("places", torch.cartesian_prod(steps, steps).flip(1), persistent=False)

    def forward(self, grid: Float[Tensor, "sample dim_row_column"]) -> Float[Tensor, "sample number"]:
        """Places (x, y) side by side."""
        grid = grid.unflatten(1, (-1, self.grid_size, self.grid_size))
        seen = F.gelu(self.mix(grid)) + grid
        shares = self.maps(seen).flatten(2).softmax(dim=-1)
        return (shares @ self.places).flatten(1) * self.log_scale.exp()


class StateHead(nn.Module):
    """Frozen tokens of a moment in, its latent out.

    Tokens of several cameras lie side by side in the last axis. They are standardised by their statistics in
    the training data, place by place, so that what never changes, the background and the position code, is
    gone before anything is learned; tokens that are NaN are not known, and count as usual.

    What the robot feels is not mixed in: standardised, it follows the numbers that say what is shown. Those
    come from the picture alone, in every frame as in a goal, of which nothing else is known.
    """

    token_mean: Tensor
    token_scale: Tensor
    proprio_mean: Tensor
    proprio_scale: Tensor
    latent_mean: Tensor
    latent_scale: Tensor
    latent_axes: Tensor | None

    def __init__(self, grid_size: int, token_width: int, config: CompactConfig, proprio_dim: int = 0) -> None:
        """Build for `grid_size ** 2` tokens of `token_width` and `proprio_dim` further numbers."""
        super().__init__()
        self.grid_size = grid_size
        self.register_buffer("proprio_mean", torch.zeros(proprio_dim))
        self.register_buffer("proprio_scale", torch.ones(proprio_dim))
        self.register_buffer("token_mean", torch.zeros(grid_size**2, token_width))
        self.register_buffer("token_scale", torch.ones(token_width))
        self.coordinates = config.coordinates
        self.register_buffer("latent_mean", torch.zeros(self.coordinates))
        self.register_buffer("latent_scale", torch.ones(()))
        axes = torch.eye(self.coordinates, config.latent_dim) if config.keypoints else None
        self.register_buffer("latent_axes", axes)
        dim, width = config.token_dim, config.head_width
        self.reduce = nn.Linear(token_width, dim)
        self.mix = nn.Conv2d(dim, dim, 3, padding=1)
        if config.keypoints:
            self.body: nn.Module = Keypoints(grid_size, dim, config.keypoints)
            return
        self.body = nn.Sequential(
            nn.Linear(grid_size**2 * dim, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, config.latent_dim),
        )

    @torch.no_grad()
    def fit_normaliser(
        self,
        tokens: Float[Tensor, "sample token dim"],
        proprio: Float[Tensor, "sample proprio"] | None = None,
    ) -> None:
        """Take the statistics of `tokens` and `proprio`, from training episodes only."""
        if proprio is not None:
            self.proprio_mean.copy_(proprio.mean(dim=0))
            self.proprio_scale.copy_(1 / proprio.std(dim=0).clamp(min=1e-6))
        self.token_mean.copy_(tokens.float().mean(dim=0))
        deviations = tokens.float() - self.token_mean
        usual = deviations.square().mean(dim=(0, 1)).sqrt()
        self.token_scale.copy_(1 / usual.clamp(min=1e-3))

    @torch.no_grad()
    def fit_scale(self, latents: Float[Tensor, "sample latent"]) -> None:
        """Shift and scale so that what is shown has mean 0 and mean variance 1.

        All dimensions alike; of keypoints' coordinates the leading principal axes are taken first.

        Args:
            latents: of all rows, `raw`.
        """
        shown = latents[:, : self.coordinates]
        if self.latent_axes is not None:
            self.latent_mean.copy_(shown.mean(dim=0))
            values, axes = torch.linalg.eigh(torch.cov(shown.T))
            kept = slice(-self.latent_axes.shape[1], None)
            self.latent_axes.copy_(axes[:, kept].flip(1) / values[kept].mean().sqrt())
            return
        self.latent_mean.add_(shown.mean(dim=0) / self.latent_scale)
        self.latent_scale.div_(shown.var(dim=0).mean().sqrt().clamp(min=1e-6))

    def standardise(self, tokens: Float[Tensor, "*batch token dim"]) -> Float[Tensor, "*batch token dim"]:
        """Tokens as deviations from what is usual at their place."""
        return (tokens.float() - self.token_mean) * self.token_scale

    def forward(
        self,
        tokens: Float[Tensor, "*batch token dim"],
        proprio: Float[Tensor, "*batch proprio"] | None = None,
    ) -> Float[Tensor, "*batch latent"]:
        """Latents of moments: what they show, then what is felt; NaN if that is not known."""
        raw = self.raw(tokens, proprio)
        if self.latent_axes is None:
            return raw
        shown, felt = raw.split([self.coordinates, len(self.proprio_mean)], dim=-1)
        return torch.cat([(shown - self.latent_mean) @ self.latent_axes, felt], dim=-1)

    def raw(
        self,
        tokens: Float[Tensor, "*batch token dim"],
        proprio: Float[Tensor, "*batch proprio"] | None = None,
    ) -> Float[Tensor, "*batch number"]:
        """Coordinates of keypoints in place of what latents keep of them; without keypoints, latents."""
        flat = tokens.reshape(-1, *tokens.shape[-2:])
        reduced = F.gelu(self.reduce(self.standardise(flat).nan_to_num(nan=0.0)))
        grid = reduced.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        seen = (F.gelu(self.mix(grid)) + grid).flatten(1)
        latents = self.body(seen)
        if self.latent_axes is None:
            latents = (latents - self.latent_mean) * self.latent_scale
        if len(self.proprio_mean):
            latents = torch.cat([latents, self._felt(proprio, latents)], dim=1)
        return latents.reshape(*tokens.shape[:-2], -1)

    def _felt(
        self, proprio: Float[Tensor, "*batch proprio"] | None, shown: Float[Tensor, "sample latent"]
    ) -> Float[Tensor, "sample proprio"]:
        """Standardised proprio."""
        if proprio is None:
            return shown.new_full((len(shown), len(self.proprio_mean)), torch.nan)
        return (proprio.reshape(len(shown), -1).to(shown) - self.proprio_mean) * self.proprio_scale


class CompactWorldModel(FrozenEncoderModel):
    """Frozen encoder, state head, predictor and temporal distance behind the `WorldModel` protocol.

    A latent is of one frame alone; motion is in the differences of consecutive latents. With proprio, it is
    `latent_dim` numbers of what the frame shows, then what the robot feels, which is NaN in a goal's latent:
    whatever compares a latent with a goal's leaves out what is not known of the goal.
    """

    action_middle: Tensor
    action_half: Tensor
    latent_variance: Tensor

    def __init__(self, encoder: Encoder, config: CompactConfig, metadata: ModelMetadata) -> None:
        """Build with random weights over `encoder`."""
        super().__init__(encoder, metadata)
        self.config = config
        action_dim = metadata.action_block * len(metadata.action_low)
        width = len(metadata.views) * encoder.width
        self.head = StateHead(encoder.grid_size, width, config, metadata.proprio_dim)
        self.predictor = make_predictor(config, action_dim, metadata.proprio_dim)
        self.distance = make_distance(config)
        self.reward = RewardHead(config) if config.reward_width else None
        low = torch.tensor(metadata.action_low).repeat(metadata.action_block)
        high = torch.tensor(metadata.action_high).repeat(metadata.action_block)
        self.register_buffer("action_middle", (low + high) / 2, persistent=False)
        self.register_buffer("action_half", (high - low) / 2, persistent=False)
        self.register_buffer("latent_variance", torch.ones(()))

    @property
    def action_block(self) -> int:
        """Actions a model step, one after another; `rollout` takes them side by side."""
        return self.metadata.action_block

    @property
    def num_members(self) -> int:
        """Members of the ensemble; 1 if it is none."""
        return self.config.ensemble

    @property
    def history(self) -> int:
        """Latents of context that `rollout` wants."""
        return self.config.history

    @property
    def views(self) -> tuple[str, ...]:
        """Image columns of an observation that the model sees."""
        return tuple(self.metadata.views)

    def shown(self, latents: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch shown"]:
        """What latents say of the frame, without what the robot feels."""
        return latents[..., : self.config.latent_dim]

    def change_scale(self, power: float) -> Float[Tensor, "shown shown"]:
        """What to multiply shown latents with, so that the squared distance counts what changes slowly more.

        A robot moves at once, what it pushes slowly, and that turns more slowly still: a distance that counts
        all alike is one of the robot. This is Mahalanobis', by the covariance of changes, to a power.

        Args:
            power: 0 leaves latents as they are, 1 makes all that changes alike.

        Raises:
            ValueError: a power outside [0, 1], or nobody has measured how latents change.
        """
        if not 0 <= power <= 1:
            raise ValueError(f"whitening={power} is not allowed; give 0 to 1")
        if not self.metadata.latent_changes:
            raise ValueError(
                "the model does not know how its latents change: train it anew, or see "
                "wm_plan.world_model.calibrate_changes; or give objective.whitening=0"
            )
        changes = torch.tensor(self.metadata.latent_changes, device=self.latent_variance.device)
        values, axes = torch.linalg.eigh(changes)
        usual = values.mean()
        return axes * (values.clamp(min=1e-4 * usual) / usual) ** (-power / 2) @ axes.T

    def normalise_actions(self, actions: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
        """Env units to [-1, 1]."""
        return (actions - self.action_middle) / self.action_half

    def encode(
        self,
        frames: Frames | Mapping[str, Frames],
        proprio: Float[Tensor, "batch step proprio"] | None = None,
    ) -> Float[Tensor, "batch step latent"]:
        """Latents of moments, each on its own.

        Args:
            frames: (B, T, H, W, 3) uint8 of any size; of the first view, or of any of `views` by name.
            proprio: what the robot feels, if the model takes it; None where it is not known, as of a goal.

        Raises:
            ValueError: none of the views is among the frames, or proprio has another size.
        """
        given = frames if isinstance(frames, Mapping) else {self.views[0]: frames}
        there = {name: given[name] for name in self.views if name in given}
        if not there:
            raise ValueError(f"no frames of {', '.join(self.views)}; there are {', '.join(given)}")
        wanted = self.metadata.proprio_dim
        if proprio is not None and wanted and proprio.shape[-1] != wanted:
            raise ValueError(f"proprio has {proprio.shape[-1]} numbers; the model was trained with {wanted}")
        with torch.no_grad():
            tokens = {name: self._tokens(view) for name, view in there.items()}
            unknown = torch.full_like(next(iter(tokens.values())), torch.nan)
            together = torch.cat([tokens.get(name, unknown) for name in self.views], dim=-1)
            return self.head(together, proprio if wanted else None)

    def _tokens(self, frames: Frames) -> Float[Tensor, "batch step token dim"]:
        """The encoder's tokens of frames, each on its own."""
        pixel_values = self.encoder.preprocess(frames).flatten(0, 1).unsqueeze(1)
        return self.encoder(pixel_values).unflatten(0, tuple(frames.shape[:2]))

    def rollout(
        self,
        context: Float[Tensor, "batch step latent"],
        actions: Float[Tensor, "batch candidate horizon action"],
    ) -> Float[Tensor, "batch candidate horizon latent"]:
        """Imagine the latents that follow `context` under `actions` in env units.

        The context itself is not returned: `[:, :, -1]` is where a plan ends. A context shorter than
        `history` is taken to have been at rest. Matrix products are done in bfloat16 where that is faster:
        it adds some 1e-5 of the latents' variance to the error, a model's own error is a hundred times that.
        """
        repeated, normalised = self._each_candidate(context, actions)
        with fast_products(repeated.device):
            imagined = self.predictor(repeated, normalised)
        return imagined.unflatten(0, (-1, actions.shape[1]))

    def rollout_members(
        self,
        context: Float[Tensor, "batch step latent"],
        actions: Float[Tensor, "batch candidate horizon action"],
    ) -> Float[Tensor, "batch candidate member horizon latent"]:
        """What each member of an ensemble imagines, as `rollout`, which gives their mean.

        Raises:
            ValueError: the model is no ensemble.
        """
        if not isinstance(self.predictor, EnsemblePredictor):
            raise ValueError("the model is no ensemble; train one with model.ensemble=3")
        repeated, normalised = self._each_candidate(context, actions)
        with fast_products(repeated.device):
            imagined = self.predictor.apart(repeated, normalised)
        return imagined.unflatten(1, (-1, actions.shape[1])).movedim(0, 2)

    def _each_candidate(
        self,
        context: Float[Tensor, "batch step latent"],
        actions: Float[Tensor, "batch candidate horizon action"],
    ) -> tuple[Float[Tensor, "row history latent"], Float[Tensor, "row horizon action"]]:
        """The whole context and the normalised actions of every candidate."""
        candidates = actions.shape[1]
        context = context[:, -self.history :]
        if self.metadata.proprio_dim and context.isnan().any():
            raise ValueError(
                f"the model needs {self.metadata.proprio_dim} numbers of proprio with each frame; "
                'give observation["proprio"]'
            )
        if context.shape[1] < self.history:
            still = context[:, :1].expand(-1, self.history - context.shape[1], -1)
            context = torch.cat([still, context], dim=1)
        repeated = context.repeat_interleave(candidates, dim=0)
        return repeated, self.normalise_actions(actions).flatten(0, 1)

    def predicted_reward(
        self, imagined: Float[Tensor, "batch candidate horizon latent"]
    ) -> Float[Tensor, "batch candidate"]:
        """Sum of the rewards of the imagined steps, the first of which is not known and left out.

        Raises:
            ValueError: the model has not learned rewards.
        """
        if self.reward is None:
            raise ValueError("the model has learned no rewards; train one with model.reward_width=128")
        shown = self.shown(imagined)
        return self.reward(shown[:, :, 1:], shown.diff(dim=2)).sum(dim=2)

    def temporal_distance(
        self,
        imagined: Float[Tensor, "batch candidate horizon latent"],
        goal: Float[Tensor, "batch 1 latent"],
    ) -> Float[Tensor, "batch candidate"]:
        """Model steps still to go from the end of each imagined sequence to the goal."""
        imagined, goal = self.shown(imagined), self.shown(goal)
        latest = imagined[:, :, -1]
        change = latest - imagined[:, :, -2] if imagined.shape[2] > 1 else torch.zeros_like(latest)
        with fast_products(latest.device):
            return self.distance(latest, change, goal.expand_as(latest)).float()

    def reached(
        self, latent: Float[Tensor, "batch latent"], goal: Float[Tensor, "batch latent"]
    ) -> Bool[Tensor, " batch"]:
        """Whether latents are as near to the goal's as held-out pairs inside the task's tolerance are."""
        return self.shown(latent - goal).square().sum(-1) <= self.metadata.reach_threshold

    def save(self, folder: str | Path, *, with_encoder: bool = True) -> None:
        """Write the model into `folder`, its encoder beside it unless it ships with the package.

        Args:
            folder: made if missing; files of the same names are replaced.
            with_encoder: copy the encoder into `folder/encoder`, so that the checkpoint stands alone.
        """
        folder = Path(folder)
        if with_encoder:
            self.encoder.save(folder / "encoder")
        config = {
            "model": asdict(self.config),
            "metadata": asdict(self.metadata),
            "encoder": {
                "name": "encoder" if with_encoder else self.encoder.name,
                "inside": with_encoder,
                "fingerprint": self.encoder.fingerprint,
            },
        }
        tensors = {k: v.half() for k, v in self.state_dict().items() if not k.startswith("encoder.")}
        save_folder(folder, "world-model", config, tensors)

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "cpu", encoder: Encoder | None = None
    ) -> CompactWorldModel:
        """Read what `save` wrote.

        Args:
            folder: the checkpoint.
            device: where it computes.
            encoder: use this instance (several models may share one); it must be the one trained with.

        Raises:
            ValueError: missing, damaged, of another kind, or its encoder is not the one it was trained with.
        """
        folder = Path(folder)
        config, tensors = load_folder(folder, "world-model")
        try:
            entry = config["encoder"]
            sizes = CompactConfig.of_json(config["model"])
            metadata = ModelMetadata.from_json(config["metadata"])
            source = folder / "encoder" if entry["inside"] else str(entry["name"])
            fingerprint = str(entry["fingerprint"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{str(folder)!r} has a damaged config: {error!r}") from error
        encoder = encoder or load_encoder(source)
        if encoder.fingerprint != fingerprint:
            raise ValueError(f"{str(folder)!r} was trained over another encoder than {encoder.name!r}")
        model = cls(encoder, sizes, metadata)
        own = {name: t for name, t in model.state_dict().items() if not name.startswith("encoder.")}
        load_weights(
            model, {**{k: v for k, v in model.state_dict().items() if k not in own}, **tensors}, folder
        )
        model.folder = folder
        return model.to(device).eval().requires_grad_(False)


def load_model(name_or_path: str | Path, *, device: str = "cpu") -> CompactWorldModel | TokenWorldModel:
    """Load a world model: a task's shipped one by its name, a folder of `wm-train`, or an id of the hub.

    Raises:
        ValueError: there is no such task, folder or model of the hub, or it is damaged.
    """
    from .token_model import TokenWorldModel, family_of

    folder = model_folder(name_or_path)
    kind = CompactWorldModel if family_of(folder) == "compact" else TokenWorldModel
    return kind.load(folder, device=device)
