"""Predict a step: replay the ranks' actions with costs and transfer times."""

from pipecut.runtime.plan import Action


def simulate(
    actions: list[list[Action]],
    forward: list[float],
    backward: list[float],
    transfers: dict[tuple[str, int], float],
    reductions: list[float],
) -> tuple[float, float]:
    """Step seconds and bubble fraction over all ranks.

    `forward` and `backward` are seconds per stage, `transfers` seconds by (F or B, receiving stage), `reductions` seconds by
    rank. Sends are buffered and do not block; a channel carries one message at a time.
    """
    clock = [0.0] * len(actions)
    at = [0] * len(actions)
    arrived: dict[tuple[str, int, int], float] = {}
    channel: dict[tuple[str, int], float] = {}
    busy = [0.0] * len(actions)
    senders = {
        (a.kind[-1], a.stage + (1 if a.kind == "SEND_F" else -1), a.microbatch)
        for row in actions
        for a in row
        if a.kind.startswith("SEND")
    }
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(actions):
            while at[rank] < len(row):
                action = row[at[rank]]
                key = (action.kind[-1], action.stage, action.microbatch)
                if action.kind in ("F", "B"):
                    if key in senders and key not in arrived:
                        break
                    seconds = (forward if action.kind == "F" else backward)[action.stage]
                    clock[rank] = max(clock[rank], arrived.get(key, 0.0)) + seconds
                    busy[rank] += seconds
                elif action.kind.startswith("SEND"):
                    target = action.stage + (1 if action.kind == "SEND_F" else -1)
                    line = (action.kind[-1], target)
                    begin = max(clock[rank], channel.get(line, 0.0))
                    channel[line] = arrived[(*line, action.microbatch)] = begin + transfers[line]
                else:
                    clock[rank] += reductions[rank] if action.kind == "REDUCE" else 0.0
                at[rank] += 1
                moved = True
    step = max(clock, default=0.0)
    bubble = 1 - sum(busy) / (step * len(actions)) if step else 0.0
    return step, bubble
