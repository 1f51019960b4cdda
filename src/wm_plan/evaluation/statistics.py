"""How sure a success rate is."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Give the Wilson score interval of a success rate, as fractions in [0, 1].

    Unlike the normal approximation it stays inside [0, 1], and is no point at 0 or all successes.

    Args:
        successes: 0 to `trials`.
        trials: at least 1.
        z: normal quantile of the wanted confidence; 95 % by default.

    Raises:
        ValueError: the numbers are no count of successes.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"{successes} successes of {trials} trials are not possible; give 0 <= successes <= trials >= 1"
        )
    rate = successes / trials
    spread = z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    centre = rate + z**2 / (2 * trials)
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def loss_interval(
    before: Sequence[bool], after: Sequence[bool], z: float = Z_95
) -> tuple[float, float, float]:
    """Give by how much a success rate fell on the same trials, and the ends of its interval.

    Pairing counts: what fails in both does not widen the interval.

    Args:
        before: success of each trial.
        after: of the same trials, in the same order.
        z: normal quantile of the wanted confidence; 95 % by default.

    Raises:
        ValueError: there is no trial, or their numbers differ.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions
        based on paired data" (1998), method 8: from the two Wilson intervals and their correlation.
    """
    if not before or len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} trials cannot be paired; give as many of each")
    num = len(before)
    both = sum(one and other for one, other in zip(before, after, strict=True))
    lost, gained = sum(before) - both, sum(after) - both
    neither = num - both - lost - gained
    product = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    correlation = (both * neither - lost * gained) / math.sqrt(product) if product else 0.0
    first, second = sum(before) / num, sum(after) / num
    (low1, high1), (low2, high2) = wilson_interval(sum(before), num, z), wilson_interval(sum(after), num, z)

    def spread(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    loss = first - second
    return loss, loss - spread(first - low1, high2 - second), loss + spread(high1 - first, second - low2)
