"""Encode one frame on one thread, beside the bare matrix products of the encoder's layers.

    python benchmarks/encode_time.py [small random efficientnet-lite0@128 ...] [--runs 200] [--json]

The bare products are the encoder's linear maps, convolutions and attention products on operands of the same
shapes and nothing else: no norms, activations, softmax, copies or Python between. Both take the least of
several medians, since other work on the machine only ever adds. Preprocessing (from a 96 px frame) is apart.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_plan.world_model import Encoder, load_encoder

Product = Callable[[], object]
Convolution = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", default=["small", "efficientnet-lite0@128", "pixels"])
    parser.add_argument("--runs", type=int, default=200, help="of each of 5 medians (200)")
    parser.add_argument("--frame-size", type=int, default=96, help="of the frame that is given [px]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with torch.inference_mode():
        for spec in flags.encoders:
            name, _, size = spec.partition("@")
            encoder = load_encoder(name, **({"image_size": int(size)} if size else {}))
            rows.append({"encoder": spec, **measure(encoder, flags.frame_size, flags.runs)})
    if flags.json:
        print(json.dumps({"threads": 1, "torch": torch.__version__, "rows": rows}))
        return
    print(f"{'encoder':<26} {'encode ms':>10} {'products ms':>12} {'ratio':>6} {'preprocess ms':>14}")
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        print(
            f"{row['encoder']:<26} {row['encode_ms']:>10.2f} {row['products_ms']:>12.2f} "
            f"{ratio:>6} {row['preprocess_ms']:>14.2f}"
        )


def measure(encoder: Encoder, frame_size: int, runs: int) -> dict[str, Any]:
    """Times of one frame [ms]."""
    frame = np.random.default_rng(0).integers(0, 255, (1, 1, frame_size, frame_size, 3), dtype=np.uint8)
    pixels = encoder.preprocess(frame)
    with recorded() as products:
        encoder(pixels)

    def bare() -> None:
        for product in products:
            product()

    encode, alone = median_ms(lambda: encoder(pixels), runs), median_ms(bare, runs) if products else 0.0
    return {
        "encode_ms": encode,
        "products_ms": alone,
        "products": len(products),
        "ratio": encode / alone if alone else None,
        "preprocess_ms": median_ms(lambda: encoder.preprocess(frame), runs),
    }


def median_ms(call: Callable[[], object], runs: int) -> float:
    """The least of five medians [ms]."""
    call()
    medians = []
    for _ in range(5):
        times = []
        for _ in range(max(1, runs)):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        medians.append(float(np.median(times)))
    return 1000 * min(medians)


@contextmanager
def recorded() -> Iterator[list[Product]]:
    """Every matrix product that is called inside, to be repeated alone on operands of the same shapes."""
    products: list[Product] = []
    names = ("linear", "conv2d", "conv3d", "scaled_dot_product_attention")
    before = {name: getattr(F, name) for name in names}
    before_conv = torch.nn.Conv2d._conv_forward, torch.nn.Conv3d._conv_forward

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        flat = torch.randn(x.reshape(-1, x.shape[-1]).shape)
        right = weight.detach().T
        products.append(lambda: flat @ right)
        return before["linear"](x, weight, bias)

    def attention(q: Tensor, k: Tensor, v: Tensor, *rest: object, **more: object) -> Tensor:
        across, scores = k.transpose(-2, -1), torch.randn(*q.shape[:-1], k.shape[-2])
        products.append(lambda: q @ across)
        products.append(lambda: scores @ v)
        return before["scaled_dot_product_attention"](q, k, v, *rest, **more)

    def convolve(forward: Convolution) -> Convolution:
        def run(self: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            products.append(lambda: forward(self, x, weight, None))
            return forward(self, x, weight, bias)

        return run

    F.linear, F.scaled_dot_product_attention = linear, attention
    torch.nn.Conv2d._conv_forward = convolve(before_conv[0])
    torch.nn.Conv3d._conv_forward = convolve(before_conv[1])
    try:
        yield products
    finally:
        for name in names:
            setattr(F, name, before[name])
        torch.nn.Conv2d._conv_forward, torch.nn.Conv3d._conv_forward = before_conv


if __name__ == "__main__":
    main()
