"""Names of dtypes, as torch has them, and their sizes."""

from typing import Annotated

from pydantic import AfterValidator

ITEM_BYTES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
# Trainable parameters of these have a float32 master, which the optimizer steps.
HALF = ("bfloat16", "float16")


def _known_dtype(name: str) -> str:
    if name not in ITEM_BYTES:
        raise ValueError(f"unknown dtype '{name}'")
    return name


Dtype = Annotated[str, AfterValidator(_known_dtype)]


def has_value(dtype: Dtype, value: float) -> bool:
    """Whether a tensor of a dtype may have a value; one of floating numbers has any, rounded."""
    if dtype == "bool":
        return value in (0, 1)
    if "int" not in dtype:
        return True
    bits = 8 * ITEM_BYTES[dtype]
    least, most = (0, 2**bits) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return float(value).is_integer() and least <= value < most
