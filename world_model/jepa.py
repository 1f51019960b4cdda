"""V-JEPA: predict the latents of what is hidden from the latents of what is seen, against an EMA teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from .distributed import gathered, part_of
from .masking import LONG_RANGE, SHORT_RANGE, MaskConfig, block_mask, split_tokens
from .vit import Block, VideoViT, ViTConfig, gather_tokens, init_linear


@dataclass
class JEPAConfig:
    """Sizes and weights of masked latent prediction.

    Attributes:
        predictor_width: token width of the predictor.
        predictor_depth: its transformer blocks.
        predictor_heads: attention heads a block.
        target_layers: encoder blocks whose outputs are predicted, counted from 1; several keep low-level
            detail (position to a fraction of a patch) in the latents, which the last block alone lets go.
        masks: kinds of mask; each clip is masked once by each.
        target: "ema", the teacher's latents; or "self", the encoder's own with gradients, which collapses: to
            see that it does.
        saliency: 0 draws mask centres uniformly over the frame; 1 in proportion to how much a patch varies in
            space and time; between, a mixture.
    """

    predictor_width: int = 96
    predictor_depth: int = 3
    predictor_heads: int = 3
    target_layers: list[int] = field(default_factory=lambda: [2, 4])
    masks: list[MaskConfig] = field(default_factory=lambda: [replace(SHORT_RANGE), replace(LONG_RANGE)])
    target: str = "ema"
    saliency: float = 0.7

    def __post_init__(self) -> None:
        """Refuse what makes no predictor."""
        for name in ("predictor_width", "predictor_depth", "predictor_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.predictor_width % self.predictor_heads:
            raise ValueError(
                f"predictor_width {self.predictor_width} is no multiple of "
                f"predictor_heads {self.predictor_heads}"
            )
        if not self.masks:
            raise ValueError("masks must name at least one kind of mask")
        if self.target not in {"ema", "self"}:
            raise ValueError(f"jepa.target must be ema or self, got {self.target!r}")
        if not 0 <= self.saliency <= 1:
            raise ValueError(f"saliency must be from 0 to 1, got {self.saliency}")


class MaskedPredictor(nn.Module):
    """A narrow transformer: visible tokens and position codes of the hidden ones in, their latents out."""

    def __init__(self, encoder: ViTConfig, config: JEPAConfig, target_width: int) -> None:
        """Build with random weights, for tokens of `encoder` and targets of `target_width`."""
        super().__init__()
        width = config.predictor_width
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.position = nn.Linear(encoder.width, width, bias=False)
        self.blocks = nn.ModuleList(
            Block(width, config.predictor_heads) for _ in range(config.predictor_depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, target_width)
        self.apply(init_linear)

    def forward(
        self,
        context: Float[Tensor, "batch visible dim"],
        positions: Float[Tensor, "token dim"],
        visible: Int[Tensor, "batch visible"],
        target: Int[Tensor, "batch target"],
    ) -> Float[Tensor, "batch target target_dim"]:
        """Predict the latents at `target` from those at `visible`."""
        codes = self.position(positions)
        seen = self.embed(context) + codes[visible]
        tokens = torch.cat([seen, self.mask_token + codes[target]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.out(self.norm(tokens[:, seen.shape[1] :]))


class JEPA(nn.Module):
    """Context encoder, its EMA teacher and the predictor between them.

    Source: V-JEPA, arXiv:2404.08471; I-JEPA, arXiv:2301.08243. Ours predicts several of the teacher's layers
    (as V-JEPA 2.1 does) and places masks where the clip varies.
    """

    def __init__(self, encoder: ViTConfig, config: JEPAConfig) -> None:
        """Build with random weights; the teacher starts as a copy of the encoder."""
        super().__init__()
        layers = config.target_layers
        if not layers or min(layers) < 1 or max(layers) > encoder.depth:
            raise ValueError(f"target_layers are {layers}; the encoder's blocks are 1 to {encoder.depth}")
        self.config = config
        self.encoder = VideoViT(encoder)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.predictor = MaskedPredictor(encoder, config, target_width=len(layers) * encoder.width)

    def targets(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """The teacher's latents of whole clips: the chosen layers, side by side, each layer-normed."""
        own = self.config.target == "self"
        vit = self.encoder if own else self.teacher
        with torch.set_grad_enabled(own and torch.is_grad_enabled()):
            layers = [
                tokens if own else F.layer_norm(tokens, tokens.shape[-1:])
                for number, tokens in enumerate(vit.layers(pixel_values))
                if number in self.config.target_layers
            ]
            return torch.cat(layers, dim=-1)

    def forward(
        self,
        pixel_values: Float[Tensor, "batch frame 3 height width"],
        generator: torch.Generator,
        teacher_values: Float[Tensor, "batch frame 3 height width"] | None = None,
    ) -> Float[Tensor, ""]:
        """L1 between predicted and teacher latents at the hidden places, averaged over the masks.

        Args:
            pixel_values: the clips, in part visible to the encoder.
            generator: draws the masks, of all processes' clips.
            teacher_values: the same clips as the teacher sees them; alike when None.
        """
        size = self.encoder.config
        plain = pixel_values if teacher_values is None else teacher_values
        targets = self.targets(plain)
        centres = gathered(self._centres(plain)).cpu()  # drawn on the CPU, alike for every device
        mine = part_of(len(centres))
        losses = []
        for mask in self.config.masks:
            hidden = block_mask(mask, size.grid_size, centres, generator).flatten(1)
            num_tubelets = pixel_values.shape[1] // size.tubelet_size
            visible, target = (
                index[mine].to(targets.device)
                for index in split_tokens(hidden, num_tubelets, mask, generator)
            )
            context = self.encoder(pixel_values, visible)
            predicted = self.predictor(context, self.encoder.positions, visible, target)
            losses.append(F.l1_loss(predicted.float(), gather_tokens(targets, target).float()))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the encoder: teacher <- momentum * teacher + (1 - momentum) * encoder."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.encoder.parameters()), 1 - momentum)

    def _centres(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"]
    ) -> Float[Tensor, "batch cell"]:
        """How likely each patch is the centre of a masked block."""
        size = self.encoder.config
        patches = rearrange(
            pixel_values, "b t c (h p) (w q) -> b (h w) (t c p q)", p=size.patch_size, q=size.patch_size
        )
        varies = patches.std(dim=-1) + 1e-6
        varies = varies / varies.sum(dim=1, keepdim=True)
        return self.config.saliency * varies + (1 - self.config.saliency) / varies.shape[1]
