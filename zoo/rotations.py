"""Hash rotations from a seed: the numbers that torch draws on a CPU, without torch.

With `hash_seed` set, Reformer draws the same random rotations before every hash. The published
classes draw them with `torch.manual_seed(seed); torch.randn(shape)`, so those numbers decide which
bucket a vector goes to, and are reproduced here bit for bit: the Mersenne Twister (Matsumoto and
Nishimura 1998), the transform of Box and Muller (1958), and for sixteen numbers or more the single
precision logarithm, sine and cosine of the Cephes library (Moshier 1984), multiplied and added as
torch's AVX2 build does, with one rounding for both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

BLOCK = 16  # numbers that torch transforms at once; fewer are drawn one pair after another
LARGEST_SEED, SMALLEST_SEED = 2**64 - 1, -(2**63)


def hash_rotations(
    seed: int, heads: int, head_dim: int, num_hashes: int, rotation_size: int
) -> np.ndarray:
    """The rotations of LSH attention (Reformer, section 2) that belong to a seed.

    Args:
        seed: `config.hash_seed`.
        rotation_size: number of buckets, or the sum of their factors.
    Returns:
        float32 `(heads, head_dim, num_hashes, rotation_size // 2)`, not to be written to.
    """
    return randn(seed, (heads, head_dim, num_hashes, rotation_size // 2))


@functools.lru_cache(maxsize=16)
def randn(seed: int, shape: Sequence[int]) -> np.ndarray:
    """What `torch.manual_seed(seed); torch.randn(shape)` gives on a CPU.

    Args:
        shape: a tuple.
    Returns:
        float32, not to be written to: calls with the same arguments share it.
    Raises:
        ValueError: a seed that torch does not take.
    """
    if not SMALLEST_SEED <= seed <= LARGEST_SEED:
        raise ValueError(f"seed: expected {SMALLEST_SEED} to {LARGEST_SEED}, got {seed}")
    count = int(np.prod(shape))
    draw = _pairs if count < BLOCK else _blocks
    values = draw(seed & 0xFFFFFFFF, count).reshape(shape)
    values.setflags(write=False)
    return values


def _integers(seed: int, count: int) -> np.ndarray:
    """The first integers of 32 bits that the generator gives, as uint64."""
    generator = np.random.MT19937()
    state: Any = np.random.RandomState(seed).get_state(legacy=False)
    generator.state = state
    return generator.random_raw(count).astype(np.uint64)


def _pairs(seed: int, count: int) -> np.ndarray:
    """Numbers made two by two in double precision."""
    halves = _integers(seed, 4 * -(-count // 2)).reshape(-1, 2)
    integers = (halves[:, 0] << np.uint64(32)) | halves[:, 1]
    uniform = (integers & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53
    angle, share = 2.0 * np.pi * uniform[0::2], uniform[1::2]
    radius = np.sqrt(-2.0 * np.log1p(-share))
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)[:count].astype(np.float32)


def _blocks(seed: int, count: int) -> np.ndarray:
    """Numbers made sixteen by sixteen in single precision.

    Where the count is no multiple of sixteen, the last sixteen are made anew of further integers.
    """
    rest = count % BLOCK
    integers = _integers(seed, count + (BLOCK if rest else 0))
    uniform = (integers & np.uint64(2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)
    values = np.empty(count, np.float32)
    whole = count - rest
    values[:whole] = _box_muller(uniform[:whole])
    if rest:
        values[-BLOCK:] = _box_muller(uniform[count:])
    return values


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Normal numbers of uniform ones; the first half of a block gives radii, the other angles."""
    blocks = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * _log(np.float32(1.0) - blocks[:, 0]))
    sine, cosine = _sine_and_cosine(np.float32(2.0 * np.pi) * blocks[:, 1])
    return np.stack([radius * cosine, radius * sine], axis=1).reshape(-1)


def _fused(a: np.ndarray, b: np.ndarray | float, c: np.ndarray | float) -> np.ndarray:
    """`a * b + c` of float32 with one rounding.

    The product is exact in double precision. The sum is not; it is rounded to an odd last bit
    there, after which rounding it once more does no harm (Boldo and Melquiond 2008).
    """
    product = a.astype(np.float64) * np.asarray(b, np.float32).astype(np.float64)
    other = np.asarray(c, np.float32).astype(np.float64)
    total = product + other
    part = total - product
    error = (product - (total - part)) + (other - part)
    even = (total.view(np.int64) & 1) == 0
    towards = np.nextafter(total, np.copysign(np.inf, error))
    return np.where(even & (error != 0), towards, total).astype(np.float32)


def _polynomial(x: np.ndarray, *coefficients: float) -> np.ndarray:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fused(value, x, coefficient)
    return value


def _log(x: np.ndarray) -> np.ndarray:
    """Cephes `logf` for numbers above 0: the logarithm of a mantissa near 1, and the exponent's."""
    bits = x.view(np.int32)
    exponent = ((bits >> 23) - 126).astype(np.float32)
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(np.float32)  # 0.5 to 1
    low = mantissa < np.float32(0.707106781186547524)
    exponent = exponent - low
    m = mantissa - np.float32(1.0) + np.where(low, mantissa, np.float32(0.0))
    square = m * m
    value = _polynomial(
        m,
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    value = _fused(value * m, square, exponent * np.float32(-2.12194440e-4))
    value = _fused(square, -0.5, value)
    return _fused(exponent, 0.693359375, m + value)


def _sine_and_cosine(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cephes `sinf` and `cosf` for angles of 0 or above, by the octant that they lie in."""
    octant = (x * np.float32(1.27323954473516)).astype(np.int32)
    octant = (octant + 1) & ~1
    quarter = octant.astype(np.float32)
    # What is left of a quarter of pi, which is taken off in three parts.
    for part in (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8):
        x = _fused(quarter, -part, x)
    square = x * x
    cosine = _polynomial(square, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
    cosine = _fused(cosine * square, square, square * np.float32(-0.5)) + np.float32(1.0)
    sine = _polynomial(square, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
    sine = _fused(sine * square, x, x)
    swapped = (octant & 2) != 0
    sine, cosine = np.where(swapped, cosine, sine), np.where(swapped, sine, cosine)
    return (
        np.where((octant & 4) != 0, -sine, sine),
        np.where(((octant + 2) & 4) != 0, -cosine, cosine),
    )
