"""Bytes, seconds and counts as text."""


def counted(count: int, thing: str) -> str:
    """A number of things: `1 stage`, `2,048 stages`, `2 microbatches`, `3 boundaries`."""
    if count == 1:
        return f"1 {thing}"
    if thing.endswith("ry"):
        return f"{count:,} {thing[:-1]}ies"
    return f"{count:,} {thing}{'es' if thing.endswith(('ch', 's')) else 's'}"


def show_bytes(count: float) -> str:
    """Bytes in binary units: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def show_seconds(seconds: float) -> str:
    """Three digits of seconds: `1.25 ms`."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
