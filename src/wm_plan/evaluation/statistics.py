"""How sure a success rate is."""

from __future__ import annotations

import math

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
