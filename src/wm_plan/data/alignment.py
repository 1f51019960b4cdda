"""Whether the action of a row leads from its frame to the next: an off-by-one is seen by cross-correlation.

How much the picture changes from row t to t + 1 is correlated with how large the action of row t + lag is.
Both series go on by themselves (a robot that moves keeps moving, a policy changes its mind slowly), which
would smear the correlation over many lags and make any test of it worthless; so each is first replaced by
what its own past does not tell (the residuals of an autoregression), as is usual for cross-correlations
(Haugh, "Checking the independence of two covariance-stationary time series", JASA 71, 1976). What remains
begins sharply at the lag at which actions start to show: at lag 0 in sound data, whatever inertia follows,
since no frame shows an action of its future. A policy that looks at the frames does not change that as long
as it explores; one that hardly does makes the answer uncertain, and then nothing is said, rather than a lag
that is none.

Standard errors are the larger of the white-noise one (1 / sqrt(n)) and a jackknife over episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

MAX_LAG = 3
_ORDER = 2
_SIGNIFICANT = 5.0
_ONSET = 0.25
_MIN_TRANSITIONS = 120
_MIN_PARTS = 8
_PART_TRANSITIONS = 16
_MAX_TRANSITIONS = 200_000
_EPISODE_SIGNIFICANT = 5.0
_EPISODE_LOG_ODDS = 8.0
_EPISODE_TRANSITIONS = 100

_Series = Float[np.ndarray, "_"]  # series of a list may differ in length
_LAGS = np.arange(-MAX_LAG, MAX_LAG + 1)


@dataclass
class Alignment:
    """What frames say of the rows that their actions are in.

    Attributes:
        lag: 0 in sound data; +1 if a frame change belongs to the action of the next row (actions are stored
            one row late), -1 if to that of the row before (one row early, or the robot answers late); None if
            the data do not tell.
        correlations: of what is new in frame changes and in actions, by lag.
        standard_error: of each of them.
        num_transitions: pairs that were compared.
        episodes: single episodes whose lag differs from the others': number and lag.
    """

    lag: int | None
    correlations: dict[int, float] = field(default_factory=dict)
    standard_error: float = 0.0
    num_transitions: int = 0
    episodes: dict[int, int] = field(default_factory=dict)


class AlignmentMeter:
    """Gathers frame changes and actions episode by episode, and tells the lag between them."""

    def __init__(self) -> None:
        self._changes: list[_Series] = []
        self._actions: list[Float[np.ndarray, "_ action"]] = []
        self._episodes: list[int] = []
        self._count = 0

    def add(
        self,
        episode: int,
        changes: Float[np.ndarray, " transition"],
        actions: Float[np.ndarray, "transition action"],
    ) -> None:
        """Take in an episode: how much the picture changes from row to row, and the actions of these rows.

        Stretches with an action that is no number are left out; so is everything after 200,000 transitions.
        """
        finite = np.isfinite(actions).all(axis=1) & np.isfinite(changes)
        breaks = np.flatnonzero(~finite)
        for start, end in zip([0, *(breaks + 1)], [*breaks, len(finite)], strict=True):
            if end - start > 2 * MAX_LAG + _ORDER + 2 and self._count < _MAX_TRANSITIONS:
                self._changes.append(changes[start:end].astype(np.float64))
                self._actions.append(actions[start:end].astype(np.float32))
                self._episodes.append(episode)
                self._count += int(end - start)

    def estimate(self) -> Alignment:
        """The lag, as far as the data tell it."""
        if self._count < _MIN_TRANSITIONS:
            return Alignment(None, num_transitions=self._count)
        found = [self._measure(sizes) for sizes in (self._sizes(), self._sizes(change=True))]
        return max(found, key=lambda alignment: max(alignment.correlations.values(), default=0.0))

    def _sizes(self, *, change: bool = False) -> list[_Series]:
        """How large each action is (or its change: where actions are positions to go to)."""
        every = np.concatenate(self._actions)
        middle, spread = np.median(every, axis=0), every.std(axis=0)
        sizes = []
        for actions in self._actions:
            scaled = (actions - middle) / np.where(spread > 0, spread, 1)
            if change:
                scaled = np.diff(scaled, axis=0, prepend=scaled[:1])
            sizes.append(np.linalg.norm(scaled, axis=1).astype(np.float64))
        return sizes

    def _measure(self, sizes: list[_Series]) -> Alignment:
        """Correlate frame changes with these sizes of actions."""
        changes, sizes = _residuals(self._changes), _residuals(sizes)
        parts = [_products(c, s) for c, s in zip(changes, sizes, strict=True)]
        owners = np.repeat(self._episodes, [len(part) for part in parts])
        products = np.concatenate(parts)
        counts = products[:, :, 3]
        num = int(counts[:, MAX_LAG].sum())
        whole = products.sum(axis=0)
        if len(products) < _MIN_PARTS or not (whole[:, 1:3] > 0).all():
            return Alignment(None, num_transitions=num)
        r = _correlation(whole)
        without = _correlation(whole - products)
        size = len(products)
        jackknife = np.sqrt((size - 1) / size * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
        error = np.maximum(jackknife, 1 / np.sqrt(num))
        correlations = {int(lag): float(value) for lag, value in zip(_LAGS, r, strict=True)}
        alignment = Alignment(_onset(r, error), correlations, float(error.max()), num)
        if alignment.lag == 0:
            alignment.episodes = _outliers(products, owners, r)
        return alignment


def _residuals(series: Sequence[_Series]) -> list[_Series]:
    """What an autoregression of order 2, fitted to all series together, leaves of each."""
    centred = [values - values.mean() for values in series]
    past = np.concatenate([_past(values) for values in centred])
    now = np.concatenate([values[_ORDER:] for values in centred])
    weights = np.linalg.lstsq(past, now, rcond=None)[0]
    return [values[_ORDER:] - _past(values) @ weights for values in centred]


def _past(values: _Series) -> Float[np.ndarray, "row order"]:
    return np.stack([values[_ORDER - k : len(values) - k] for k in range(1, _ORDER + 1)], axis=1)


def _products(changes: _Series, sizes: _Series) -> Float[np.ndarray, "part lag 4"]:
    """Sums of products and of both squares, and how many, for each part of an episode and each lag."""
    middle = np.arange(MAX_LAG, len(changes) - MAX_LAG)
    parts = np.array_split(middle, max(1, len(middle) // _PART_TRANSITIONS))
    rows = []
    for part in parts:
        c, lagged = changes[part], [sizes[part + lag] for lag in _LAGS]
        rows.append([[c @ s, c @ c, s @ s, len(part)] for s in lagged])
    return np.array(rows, np.float64)


def _correlation(sums: Float[np.ndarray, "*part lag 4"]) -> Float[np.ndarray, "*part lag"]:
    return sums[..., 0] / np.sqrt(np.maximum(sums[..., 1] * sums[..., 2], 1e-24))


def _onset(r: Float[np.ndarray, " lag"], error: Float[np.ndarray, " lag"]) -> int | None:
    """The greatest lag at which the actions show; None if they nowhere do beyond doubt.

    At lag 0 and before, a negative correlation shows them too: a robot that is told to turn round brakes
    first. After it, one is what feedback makes, and shows nothing.
    """
    peak = r.max()
    if peak < _SIGNIFICANT * error[int(np.argmax(r))]:
        return None
    size = np.where(_LAGS > 0, r, np.abs(r))
    shows = (size > _SIGNIFICANT * error) & (size > _ONSET * peak)
    onset = int(_LAGS[shows].max())
    here, doubt = r[MAX_LAG], error[MAX_LAG]
    if onset < 0 and (here + 2 * doubt > _ONSET * peak or here < -3 * doubt):
        return None  # they may show at lag 0 too
    return onset


def _outliers(
    products: Float[np.ndarray, "part lag 4"], owners: np.ndarray, r: Float[np.ndarray, " lag"]
) -> dict[int, int]:
    """Episodes that look as all of them would one row off, and unlike any other; with their lag.

    An episode is named if the shifted correlations are likelier than the common ones by a factor that grows
    with the number of episodes, in each half of it too, and the common ones are out of the question for it.
    Episodes of fewer than 100 transitions cannot tell: actions that are held for some steps, say, leave only
    a few of them that count.
    """
    episodes = np.unique(owners)
    if len(episodes) < _MIN_PARTS:
        return {}
    halves = np.stack(
        [[half.sum(axis=0) for half in np.array_split(products[owners == e], 2)] for e in episodes]
    )
    sums = halves.sum(axis=1)
    counts = sums[:, MAX_LAG, 3]
    found: dict[int, int] = {}
    for lag in (1, -1):
        shifted = np.roll(r, lag)
        shifted[0 if lag > 0 else -1] = 0.0
        distance = np.sqrt(((r - shifted) ** 2).sum())
        ratio = _log_odds(sums, shifted, r)
        z = (ratio + counts * distance**2 / 2) / np.maximum(np.sqrt(counts) * distance, 1e-12)
        odd = (ratio > _EPISODE_LOG_ODDS + np.log(len(episodes))) & (z > _EPISODE_SIGNIFICANT)
        odd &= (_log_odds(halves, shifted, r) > 0).all(axis=1) & (counts >= _EPISODE_TRANSITIONS)
        found.update({int(episode): lag for episode in episodes[odd]})
    return found


def _log_odds(
    sums: Float[np.ndarray, "*part lag 4"], one: Float[np.ndarray, " lag"], other: Float[np.ndarray, " lag"]
) -> Float[np.ndarray, "*part"]:
    """How much likelier correlations `one` are than `other`, with errors of 1 / sqrt(n) each."""
    own, counts = _correlation(sums), sums[..., MAX_LAG, 3]
    return counts / 2 * (((own - other) ** 2).sum(axis=-1) - ((own - one) ** 2).sum(axis=-1))
