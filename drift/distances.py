"""How far two histograms are apart, vectorised over [..., bins]: `p` are the counts of now, `q` of the reference.

Counts or shares, of any scale; the last axis is the bins, and the others broadcast. Two empty histograms are at
distance 0; an empty one against another is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

FLOOR = 1e-4
"""PSI has no value where a share is 0: shares are raised to this one, as is usual."""


def shares(counts: NDArray[Any]) -> Floats:
    """Counts [..., bins] to shares that add up to 1; NaN for an empty histogram.

    >>> shares(np.array([1, 3])).tolist()
    [0.25, 0.75]
    """
    x = counts if counts.dtype == np.float32 else counts.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(x / _sum(x)[..., None])


def psi(p: NDArray[Any], q: NDArray[Any], floor: float = FLOOR) -> Floats:
    """Population stability index: sum of (p - q) ln(p / q). Range 0 upwards.

    Source: Kullback and Leibler (1951), J-divergence; as an index, Siddiqi, Credit Risk Scorecards (2006). It is
    biased upwards by about (bins - 1)(1/n + 1/m) for n and m rows, so take 10 to 16 groups of bins.

    >>> round(float(psi(np.array([20, 80]), np.array([50, 50]))), 6)
    0.415888
    """
    return psi_of(shares(p), shares(q), floor)


def psi_bias(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """What chance alone adds to `psi` of two samples from the same source, about: (bins - 1)(1/n + 1/m), for the bins
    that are filled. Range 0 upwards; infinite for an empty histogram.

    Source: the sum's second-order expansion, Yurdakul (2018), Statistical Properties of Population Stability Index.

    >>> round(float(psi_bias(np.array([50, 50]), np.array([500, 500]))), 3)
    0.011
    """
    a, b = np.broadcast_arrays(np.asarray(p, np.float64), np.asarray(q, np.float64))
    filled = np.maximum(np.count_nonzero(a + b, axis=-1), 1)
    with np.errstate(divide="ignore"):
        return np.asarray((filled - 1) * (1 / a.sum(axis=-1) + 1 / b.sum(axis=-1)))


def js(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """Jensen-Shannon distance, the root of the divergence in bits. Range 0 to 1.

    Source: Endres and Schindelin (2003); scipy.spatial.distance.jensenshannon with base 2.

    >>> float(js(np.array([1, 0]), np.array([0, 1])))
    1.0
    """
    return js_of(shares(p), shares(q))


def ks(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """Kolmogorov-Smirnov: the largest gap between the distribution functions, seen at the bins' edges. Range 0 to 1.

    Never above the gap of the values themselves; see `ks_bound`. Source: Smirnov (1939).

    >>> float(ks(np.array([1, 1, 2]), np.array([2, 1, 1])))
    0.25
    """
    return np.asarray(np.abs(_gaps(p, q)).max(axis=-1))


def ks_bound(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """The most that the Kolmogorov-Smirnov distance of the values can be, given these bins. Range 0 to 1.

    Within bin i it is at most max(F[i+1] - G[i], G[i+1] - F[i]).

    >>> float(ks_bound(np.array([1, 1, 2]), np.array([2, 1, 1])))
    0.5
    """
    f, g = np.cumsum(shares(p), axis=-1), np.cumsum(shares(q), axis=-1)
    before_f, before_g = f - shares(p), g - shares(q)
    return np.asarray(np.minimum(np.maximum(f - before_g, g - before_f).max(axis=-1), 1.0))


def wasserstein(p: NDArray[Any], q: NDArray[Any], places: NDArray[Any], scale: float | NDArray[Any] = 1.0) -> Floats:
    """First Wasserstein distance with each bin's mass at `places` [..., bins], in units of `scale`. Range 0 upwards.

    With the bins' means as places the error stays near 0.005 standard deviations; the area between the distribution
    functions. Source: Vallender (1974).

    >>> float(wasserstein(np.array([0, 1]), np.array([1, 0]), np.array([1.0, 4.0])))
    3.0
    """
    gaps = np.abs(_gaps(p, q)[..., :-1])
    return np.asarray((gaps * np.diff(places, axis=-1)).sum(axis=-1) / scale)


def wasserstein_bound(
    p: NDArray[Any], q: NDArray[Any], edges: NDArray[Any], scale: float | NDArray[Any] = 1.0
) -> Floats:
    """The most that the distance of the values can be, given these bins, where none lies beyond the outer edges [k];
    counts [..., k + 1]. Within a bin the distribution functions are no further apart than `ks_bound` says.

    >>> float(wasserstein_bound(np.array([0, 0, 1, 0]), np.array([0, 1, 0, 0]), np.array([0.0, 1.0, 2.0])))
    2.0
    """
    f, g = np.cumsum(shares(p), axis=-1), np.cumsum(shares(q), axis=-1)
    most = np.maximum(f[..., 1:-1] - g[..., :-2], g[..., 1:-1] - f[..., :-2])
    return np.asarray((most * np.diff(edges, axis=-1)).sum(axis=-1) / scale)


def chi2(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """Chi-square statistic of the 2 x bins table of counts (not shares). Range 0 to n + m; an empty bin adds nothing.

    Source: Pearson (1900); scipy.stats.chi2_contingency without correction. Degrees of freedom: filled bins - 1.

    >>> float(chi2(np.array([10, 20]), np.array([20, 10])).round(6))
    6.666667
    """
    a, b = np.broadcast_arrays(np.asarray(p, np.float64), np.asarray(q, np.float64))
    return chi2_of(shares(a), shares(b), a.sum(axis=-1), b.sum(axis=-1))


def hellinger(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """Hellinger distance: the root of half the sum of (sqrt p - sqrt q)^2. Range 0 to 1.

    Source: Hellinger (1909), as in Le Cam, Asymptotic Methods (1986).

    >>> float(hellinger(np.array([1, 0]), np.array([0, 1])))
    1.0
    """
    return hellinger_of(shares(p), shares(q))


def tv(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """Total variation: half the sum of |p - q|, the share of rows that would have to move. Range 0 to 1.

    >>> float(tv(np.array([3, 1]), np.array([1, 3])))
    0.5
    """
    return tv_of(shares(p), shares(q))


def _gaps(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    return np.asarray(np.cumsum(shares(p) - shares(q), axis=-1))


def psi_of(a: Floats, b: Floats, floor: float = FLOOR) -> Floats:
    """`psi` of shares."""
    a, b = np.maximum(a, floor), np.maximum(b, floor)
    return _sum((a - b) * np.log(a / b))


def js_of(a: Floats, b: Floats) -> Floats:
    """`js` of shares."""
    tiny = np.finfo(a.dtype).tiny
    middle = np.log((a + b) / 2 + tiny)
    both = a * (np.log(a + tiny) - middle) + b * (np.log(b + tiny) - middle)
    return np.asarray(np.sqrt(np.clip(_sum(both) / (2 * np.log(2.0)), 0.0, 1.0)))


def chi2_of(a: Floats, b: Floats, n: Floats, m: Floats) -> Floats:
    """`chi2` of shares, of `n` and `m` counts [...]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = a * (1 / m)[..., None] + b * (1 / n)[..., None]
    gap = a - b
    return _sum(gap * gap / np.maximum(expected, np.finfo(a.dtype).tiny))


def hellinger_of(a: Floats, b: Floats) -> Floats:
    """`hellinger` of shares."""
    gap = np.sqrt(a) - np.sqrt(b)
    return np.asarray(np.sqrt(np.minimum(_sum(gap * gap) / 2, 1.0)))


def tv_of(a: Floats, b: Floats) -> Floats:
    """`tv` of shares."""
    return np.asarray(_sum(np.abs(a - b)) / 2)


def _sum(x: Floats) -> Floats:
    """The sum over the last axis: for short ones faster than `sum`."""
    return np.asarray(x @ np.ones(x.shape[-1], x.dtype))
