"""Skip random numbers without drawing them: leave torch's CPU generator as if it had drawn them.

The generator is MT19937 (Matsumoto and Nishimura, Mersenne Twister, 1998), whose words x[0], x[1],
... obey a linear recurrence over bits. With its characteristic polynomial p, of degree 19937, the
word n places later is a sum (xor) of words near the start:

    x^n mod p = sum of x^i for i in I     =>     x[n] = xor of x[i] for i in I

So a jump over 10^12 words takes as long as over 10^8: some 40 squarings of a polynomial of 20,000
bits (Haramoto et al., Efficient Jump Ahead for F2-Linear Random Number Generators, 2008). The
layout of the state and the words per number are those of torch 2.13; both are tried on the
installed torch before they are used.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch

from pipecut.device.local import on_cpu

# MT19937's parameters: words of a block, the word that a new one is mixed with, low bits, matrix.
WORDS, MIDDLE, LOW_BITS = 624, 397, 31
TWIST = 0x9908B0DF
DEGREE = WORDS * 32 - LOW_BITS
# Bytes of torch's state at which are the words left (plus one), the next word's index, the words.
LEFT, NEXT, FIRST = 8, 16, 24
# Up to so many blocks are made one after the other; a polynomial takes longer.
FEW_BLOCKS = 1000
# Normal numbers that torch draws at once; it draws fewer one at a time, from doubles.
NORMALS, SMALLEST = 16, 16
# Words per number.
WORDS_EACH = {torch.float64: 2, torch.float32: 1, torch.bfloat16: 1, torch.float16: 1}

Words = np.ndarray[tuple[int], np.dtype[np.uint32]]


def words_of(draw: str, tensor: torch.Tensor) -> int | None:
    """Words that `normal_` or `uniform_` takes to fill a tensor; None where that is unknown."""
    dtype, size = tensor.dtype, tensor.numel()
    if not on_cpu(tensor) or dtype not in WORDS_EACH or not _tried(draw, dtype):
        return None
    if draw == "uniform_":
        return size * WORDS_EACH[dtype]
    if size < SMALLEST or not tensor.is_contiguous():
        return None
    return _normals(dtype, size) * WORDS_EACH[dtype]


def _normals(dtype: torch.dtype, size: int) -> int:
    """Numbers drawn for a tensor: where the size is no multiple of 16, the last 16 are drawn anew.

    That is after the whole sixteens for half precision, else after all numbers.
    """
    remainder = size % NORMALS
    if not remainder:
        return size
    halves = dtype in (torch.bfloat16, torch.float16)
    return size + NORMALS - (remainder if halves else 0)


def skip(words: int) -> None:
    """Advance the default CPU generator by so many words."""
    if not words:
        return
    state = torch.get_rng_state()
    raw = state.numpy()
    words_left = raw[LEFT : LEFT + 4].view(np.int32)
    next_index = raw[NEXT : NEXT + 8].view(np.uint64)
    block = raw[FIRST : FIRST + 8 * WORDS].view(np.uint64)
    remaining = int(words_left[0]) - 1
    if words <= remaining:
        words_left[0] -= words
        next_index[0] += np.uint64(words)
    else:
        blocks, within = divmod(words - remaining - 1, WORDS)
        block[:] = _after(block.astype(np.uint32), blocks + 1)
        words_left[0], next_index[0] = WORDS - within, within + 1
    torch.set_rng_state(state)


def _after(block: Words, blocks: int) -> Words:
    """The words of the block that many blocks later."""
    if blocks <= FEW_BLOCKS:
        for _ in range(blocks):
            block = _next_block(block)
        return block
    # The first word of a seeded state has bits that the recurrence did not make: begin one later.
    block = _next_block(block)
    following = [block]
    for _ in range(DEGREE // WORDS + 1):
        following.append(_next_block(following[-1]))
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate(following), WORDS)
    power = _power(WORDS * (blocks - 1)).to_bytes(DEGREE // 8 + 1, "little")
    bits = np.unpackbits(np.frombuffer(power, np.uint8), bitorder="little")
    result = np.zeros(WORDS, np.uint32)
    # In parts, since all chosen windows together take 25 MB.
    for part in np.array_split(np.flatnonzero(bits), 16):
        result ^= np.bitwise_xor.reduce(windows[part], axis=0)
    return result


def _next_block(block: Words) -> Words:
    """The 624 words that follow 624."""
    new = np.empty_like(block)
    ahead = WORDS - MIDDLE
    mixed = _mix(block[:-1], block[1:])
    new[:ahead] = block[MIDDLE:] ^ mixed[:ahead]
    new[ahead : 2 * ahead] = new[:ahead] ^ mixed[ahead : 2 * ahead]
    new[2 * ahead : -1] = new[ahead : WORDS - 1 - ahead] ^ mixed[2 * ahead :]
    new[-1:] = new[MIDDLE - 1 : MIDDLE] ^ _mix(block[-1:], new[:1])
    return new


def _mix(word: Words, following: Words) -> Words:
    low = np.uint32((1 << LOW_BITS) - 1)
    both = (word & ~low) | (following & low)
    return (both >> np.uint32(1)) ^ ((both & np.uint32(1)) * np.uint32(TWIST))


@cache
def _power(exponent: int) -> int:
    """x^exponent modulo the characteristic polynomial; bit i is the coefficient of x^i."""
    result = 1
    for bit in bin(exponent)[2:]:
        result = _reduced(_squared(result) << (bit == "1"))
    return result


def _squared(polynomial: int) -> int:
    """Modulo 2 the square of a sum is the sum of squares: every bit moves to twice its position."""
    octets = np.frombuffer(
        polynomial.to_bytes(polynomial.bit_length() // 8 + 1, "little"), np.uint8
    )
    return int.from_bytes(_spread()[octets].tobytes(), "little")


@cache
def _spread() -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    return np.array(
        [sum((byte >> bit & 1) << 2 * bit for bit in range(8)) for byte in range(256)], dtype="<u2"
    )


def _reduced(polynomial: int) -> int:
    mask, terms = (1 << DEGREE) - 1, _terms()
    while high := polynomial >> DEGREE:
        polynomial &= mask
        for term in terms:
            polynomial ^= high << term
    return polynomial


def _times(first: int, second: int) -> int:
    """The product of two polynomials over bits."""
    result = 0
    while second:
        lowest = second & -second
        result ^= first << lowest.bit_length() - 1
        second ^= lowest
    return result


def _to_the(polynomial: int, exponent: int) -> int:
    result = 1
    for _ in range(exponent):
        result = _times(result, polynomial)
    return result


@cache
def _terms() -> tuple[int, ...]:
    """Exponents of the characteristic polynomial but for its highest, from the paper's appendix A.

    With P = x^624 + x^397, Q = x^623 + x^396, bits a_i of the twist and r = 31, it is
    P Q^r + sum of a_i P Q^(r-1-i) for i < r, + a_r.
    """
    upper = 1 << WORDS | 1 << MIDDLE
    lower = upper >> 1
    bits = [TWIST >> i & 1 for i in range(32)]
    polynomial = _times(upper, _to_the(lower, LOW_BITS))
    for i in range(LOW_BITS):
        if bits[i]:
            polynomial ^= _times(upper, _to_the(lower, LOW_BITS - 1 - i))
    polynomial ^= bits[LOW_BITS]
    return tuple(i for i in range(DEGREE) if polynomial >> i & 1)


@cache
def _tried(draw: str, dtype: torch.dtype) -> bool:
    """Whether this torch takes as many words per draw as `words_of` says, and jumps are right."""
    size = NORMALS * 40 + 1
    words = (_normals(dtype, size) if draw == "normal_" else size) * WORDS_EACH[dtype]
    return _jumps() and _same_state(lambda: getattr(torch.empty(size, dtype=dtype), draw)(), words)


@cache
def _jumps() -> bool:
    """Whether jumps over many and over few words leave the state that so many draws leave."""
    many = WORDS * (FEW_BLOCKS + 3) + 5
    return all(_same_state(partial(_draw_words, count), count) for count in (many, 700, 1))


def _draw_words(count: int) -> object:
    return torch.empty(count, dtype=torch.uint8).random_()


def _same_state(draw: Callable[[], object], words: int) -> bool:
    with torch.random.fork_rng(devices=[]), torch.utils._python_dispatch._disable_current_modes():
        torch.manual_seed(1)
        torch.empty(3, dtype=torch.uint8).random_()
        begin = torch.get_rng_state()
        draw()
        drawn = torch.get_rng_state()
        torch.set_rng_state(begin)
        try:
            skip(words)
        except (ValueError, IndexError, TypeError):
            # The state has another layout.
            return False
        return torch.equal(torch.get_rng_state(), drawn)
