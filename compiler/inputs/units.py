"""Quantities with units, as people write them in YAML: `80GiB`, `450GB/s`, `5us`, `989TFLOP/s`."""

import re

_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
# More than any device or link has in its unit; beyond it floats lose whole numbers.
LARGEST = 1e24
_NUMBER = re.compile(r"^\s*([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z/]*)\s*$")

# YAML 1.1 takes these for text unless they have a dot and a sign.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _split(text: object, example: str) -> tuple[float, str]:
    match = _NUMBER.match(text) if isinstance(text, str) else None
    if match is None or not match.group(2):
        raise ValueError(f"{text!r} has no unit or is not a quantity; write it like {example}")
    return float(match.group(1)), match.group(2)


def _scaled(text: object, units: dict[str, float], example: str, allow_zero: bool) -> float:
    number, unit = _split(text, example)
    if unit not in units:
        raise ValueError(f"unknown unit {unit!r} in {text!r}; write it like {example}")
    if number < 0 or (number == 0 and not allow_zero):
        least = "zero or more" if allow_zero else "more than zero"
        raise ValueError(f"{text!r} must be {least}; write it like {example}")
    value = number * units[unit]
    if value > LARGEST:
        raise ValueError(f"{text!r} is more than any machine has; write it like {example}")
    return value


def number_in(value: object) -> object:
    """`3e-4` as a number, which YAML 1.1 takes for text; any other value as it is."""
    if isinstance(value, list):
        return [number_in(part) for part in value]
    written = isinstance(value, str) and _EXPONENT.fullmatch(value)
    return float(written.group()) if written else value


def parse_bytes(text: object) -> int:
    """`80GiB` or `80GB` to bytes. Raises ValueError."""
    units = {f"{p}B": f for p, f in {**_SI, **_BINARY}.items()}
    return round(_scaled(text, units, "80GiB", allow_zero=True))


def parse_rate(text: object) -> float:
    """`450GB/s` to bytes per second; `400Gbit/s` too. Raises ValueError."""
    units = {f"{p}B/s": f for p, f in {**_SI, **_BINARY}.items()}
    units |= {f"{p}bit/s": f / 8 for p, f in _SI.items()}
    return _scaled(text, units, "450GB/s", allow_zero=False)


def parse_seconds(text: object) -> float:
    """`5us` to seconds. Raises ValueError."""
    return _scaled(text, _SECONDS, "5us", allow_zero=True)


def parse_flops(text: object) -> float:
    """`989TFLOP/s` to floating-point operations per second. Raises ValueError."""
    units = {f"{p}FLOP/s": f for p, f in _SI.items()} | {f"{p}FLOPS": f for p, f in _SI.items()}
    return _scaled(text, units, "989TFLOP/s", allow_zero=False)
