"""Mutations of values inside valid files: another type, magnitude or name at a random place."""

import random
from collections.abc import Iterator
from typing import Any

# Types and magnitudes that a sum, a size, a path, a name or a printed line may trip over.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 7, 2**31, 2**63, 10**18, 10**400, -(10**18)),
    *(0.0, -0.5, 1e-300, 1e300, float("inf"), float("nan")),
    *("", "x", "[/bold]", "[red]", "\x1b[31m", "\u202e", "a\nb", "../../etc/passwd", "/dev/zero"),
    *(
        "batch",
        "9**9**9",
        "batch**batch",
        "16*batch//0",
        "F 0.0",
        "F 99.0",
        "REDUCE",
        "os:system",
        "h100-sxm",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"a": 1},
        ["x"] * 3,
        "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"),
    ),
)


def places(data: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every container within, with each key or index it has."""
    if depth > 12:
        return
    keys = (
        list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    )
    for key in keys:
        yield data, key
        yield from places(data[key], depth + 1)


def mutate_values(data: Any, rng: random.Random) -> None:
    """Change one to three places.

    Another value, a value from elsewhere, one left out, one twice, a key renamed.
    """
    for _ in range(rng.choice((1, 1, 2, 3))):
        everywhere = list(places(data))
        if not everywhere:
            return
        # Fields near the top are few and matter: they are chosen as often as all that is deeper.
        near = everywhere[: max(8, len(everywhere) // 50)]
        container, key = rng.choice(near if rng.random() < 0.3 else everywhere)
        way = rng.randrange(8)
        if way == 0:
            del container[key]
        elif way == 1:
            source, place = rng.choice(everywhere)
            if isinstance(source, dict):
                container[key] = source.get(place)
        elif way == 2 and isinstance(container, list):
            container.insert(key, container[key])
        elif way == 3 and isinstance(container, dict):
            container[str(rng.choice(VALUES))[:20]] = container.pop(key)
        elif (
            way == 4
            and isinstance(container[key], int | float)
            and not isinstance(container[key], bool)
        ):
            container[key] = container[key] * rng.choice((-1, 0, 2, 10**6, 10**15)) + rng.choice(
                (0, 1)
            )
        else:
            container[key] = rng.choice(VALUES)
