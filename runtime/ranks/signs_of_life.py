"""What a rank knows of ranks on other hosts, by their last messages: who is silent or stands still.

All are functions of values.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipecut.runtime.health.status import RankStatus, State
from pipecut.runtime.health.watchdog import Limits, Seen, Stall, stall_message, standing_still

# Seconds without a sign of life after which a rank is doubted, once another rank lost a peer.
SUSPECT = 7.0


@dataclass(frozen=True)
class Heard:
    """A rank's last sign of life.

    `number` counts the rank's signs, `at` is when this one came, on the listener's clock. The rank
    had been in `state` for `seconds`, and described itself by `text`.
    """

    rank: int
    host: str
    number: int
    at: float
    state: State = State.STARTING
    seconds: float = 0.0
    text: str = "before it began"

    @property
    def name(self) -> str:
        """The rank's name in messages."""
        return f"rank {self.rank} on host {self.host}"


def hear(before: Heard, message: str | None, now: float) -> Heard:
    """What is known of a rank after a look at its last message; None where there is no message."""
    if message is None:
        return before
    number, state, seconds, text = json.loads(message)
    if number == before.number:
        return before
    return replace(
        before, number=number, at=now, state=State(state), seconds=float(seconds), text=str(text)
    )


def silent(everyone: Sequence[Heard], now: float, limit: float) -> Heard | None:
    """The rank that was silent the longest, where that is too long and it had not ended well."""
    quiet = [h for h in everyone if h.state is not State.ENDED and now - h.at >= limit]
    return min(quiet, key=lambda heard: heard.at, default=None)


def doubted(heard: Heard, now: float) -> bool:
    """Whether a rank ended, or has been silent for long enough to be doubted."""
    return heard.state is State.ENDED or now - heard.at >= SUSPECT


def early_message(everyone: Sequence[Heard]) -> str | None:
    """Which ranks ended by themselves, where others still need them."""
    names = [heard.name for heard in everyone if heard.state is State.ENDED]
    if not names:
        return None
    reason = "its loop left early, or code exited Python"
    return f"{', '.join(names)} ended while other ranks went on: {reason}"


def silence_message(heard: Heard, everyone: Sequence[Heard], now: float) -> str:
    """Which rank went silent, since when and at what, and what all ranks did last."""
    statuses = "".join(f"\n  {h.name}: {h.text}" for h in everyone)
    return (
        f"{heard.name} has been silent for {now - heard.at:.0f} s, last {heard.text}: its process "
        f"was killed or stopped, or its host is lost{statuses}"
    )


def find_stall(everyone: Sequence[Heard], now: float, limits: Limits) -> Stall | None:
    """The rank that is alive and stands still, by the rules of the watchdog of one machine."""
    ranks = [
        Seen(
            heard.rank,
            RankStatus(0, heard.state, 0, None, 0.0),
            heard.seconds + now - heard.at,
            gone=heard.state is State.ENDED,
            text=heard.text,
        )
        for heard in everyone
    ]
    blamed = standing_still(ranks, limits)
    if not blamed:
        return None
    rank = blamed[0].rank
    message = stall_message(blamed[0], ranks, limits)
    return Stall(rank, message.replace(f"rank {rank}", everyone[rank].name, 1))
