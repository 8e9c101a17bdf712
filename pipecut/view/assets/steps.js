"use strict";
/* A predicted and a measured step as the timeline has them, and their events in words. */
{
  const { seconds, change } = pipecut;
  const TICKS = 2 ** 32 - 1;
  // Pixels above the lanes, for the axis.
  const TOP = 24;
  const NAMES = {
    F: "forward",
    B: "backward",
    I: "gradients of inputs",
    W: "gradients of weights",
    REDUCE: "sum of gradients",
    SEND_F: "messages",
    SEND_B: "messages",
    SEND: "messages",
    WAIT: "waits, measured",
  };
  const COLOURS = {
    F: "forward",
    B: "backward",
    I: "backward",
    W: "weights",
    REDUCE: "sums",
    SEND_F: "transfer",
    SEND_B: "transfer",
    SEND: "transfer",
    WAIT: "wait",
  };

  function prepared(data) {
    const { predicted, measured, kinds, tick, ranks } = data.timeline;
    const state = {
      data,
      kinds,
      tick,
      ranks,
      scrolled: 0,
      critical: true,
      messages: predicted.sends.first.at(-1) > 0,
      predicted: {
        ...predicted,
        computes: pipecut.unpackLanes(predicted.computes),
        sends: pipecut.unpackLanes(predicted.sends),
      },
      measured: measured && {
        ...measured,
        computes: pipecut.unpackLanes(measured.computes),
        sends: pipecut.unpackLanes(measured.sends),
      },
      hovered: null,
      selected: null,
    };
    state.chunk = chunks(data.plan.stages);
    state.path = pathOf(state.predicted.computes);
    if (state.measured) matchMeasured(state);
    return state;
  }

  /* The position of each stage among those of its rank. */
  function chunks(stages) {
    const seen = new Map();
    return stages.map((stage) => {
      const position = seen.get(stage.rank) || 0;
      seen.set(stage.rank, position + 1);
      return position;
    });
  }

  /* The computes of the critical path by time, as positions and their lanes. */
  function pathOf(lanes) {
    const path = [];
    for (let lane = 0; lane + 1 < lanes.first.length; lane += 1) {
      for (let at = lanes.first[lane]; at < lanes.first[lane + 1]; at += 1) {
        if (lanes.critical[at]) path.push({ at, lane });
      }
    }
    // A sum of tied gradients begins before the rank that it waits for is done, and ends after it.
    const sums = ({ at }) => (lanes.stage[at] ? 0 : 1);
    return path.sort(
      (a, b) =>
        lanes.end[a.at] - lanes.end[b.at] ||
        sums(a) - sums(b) ||
        lanes.start[a.at] - lanes.start[b.at],
    );
  }

  /* For each measured compute, the predicted one: the same action of the same pipeline rank. */
  function matchMeasured(state) {
    const { predicted, measured, ranks } = state;
    const key = (lanes, at) => `${lanes.kind[at]} ${lanes.stage[at]} ${lanes.microbatch[at]}`;
    state.twin = new Int32Array(measured.computes.kind.length).fill(-1);
    ranks.forEach((replicas, lane) => {
      const known = new Map();
      for (
        let at = predicted.computes.first[lane];
        at < predicted.computes.first[lane + 1];
        at += 1
      ) {
        known.set(key(predicted.computes, at), at);
      }
      for (const rank of replicas) {
        for (
          let at = measured.computes.first[rank];
          at < measured.computes.first[rank + 1];
          at += 1
        ) {
          state.twin[at] = known.get(key(measured.computes, at)) ?? -1;
        }
      }
    });
  }

  function duration(state, lanes, at) {
    return (lanes.end[at] - lanes.start[at]) * state.tick;
  }

  /* What an event is, in lines. */
  function describe(state, hit) {
    const { lanes, at } = hit;
    const kind = state.kinds[lanes.kind[at]];
    const [begin, end] = [lanes.start[at] * state.tick, lanes.end[at] * state.tick];
    const lines = [
      `${hit.measured ? `rank ${hit.lane}, measured` : rankName(state, hit.lane)}: ` +
        what(kind, lanes, at),
    ];
    if (lanes.stage[at])
      lines.push(short(state.data.plan.stages[lanes.stage[at] - 1].modules.join(", ")));
    lines.push(`${seconds(end - begin)}, from ${seconds(begin)} to ${seconds(end)}`);
    if (hit.measured && lanes === state.measured.computes && state.twin[at] >= 0) {
      const twin = state.twin[at];
      const expected = duration(state, state.predicted.computes, twin);
      const late = begin - state.predicted.computes.start[twin] * state.tick;
      lines.push(
        `predicted ${seconds(expected)} (${change((end - begin) / (expected || Infinity) - 1)}), ` +
          `begins ${seconds(Math.abs(late))} ${late < 0 ? "earlier" : "later"}`,
      );
    }
    if (!hit.measured && lanes.critical[at]) lines.push("on the critical path");
    return lines.join("\n");
  }

  function rankName(state, lane) {
    const replicas = state.ranks[lane];
    return replicas.length > 1 ? `ranks ${replicas[0]}–${replicas.at(-1)}` : `rank ${replicas[0]}`;
  }

  function what(kind, lanes, at) {
    if (!lanes.stage[at]) return "sum of gradients";
    const [stage, microbatch] = [lanes.stage[at] - 1, lanes.microbatch[at] - 1];
    const of = `stage ${stage}, microbatch ${microbatch}`;
    if (kind === "SEND_F") return `activations to stage ${stage + 1}, microbatch ${microbatch}`;
    if (kind === "SEND_B") return `gradients to stage ${stage - 1}, microbatch ${microbatch}`;
    if (kind === "SEND") return `message of ${of}`;
    if (kind === "WAIT") return `waits for what ${of} needs`;
    return `${NAMES[kind]} of ${of}`;
  }

  function short(text) {
    return text.length > 240 ? `${text.slice(0, 239)}…` : text;
  }

  pipecut.steps = { TICKS, TOP, NAMES, COLOURS, prepared, duration, describe, rankName };
}
