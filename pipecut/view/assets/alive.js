"use strict";
/* What is alive on a rank, moment by moment, in parts. */
{
  const { shown, shareAt } = pipecut;
  // From the bottom of a picture to its top.
  const PARTS = [
    ["outside", "context and communicators"],
    ["parameters", "parameters"],
    ["optimizer", "optimizer"],
    ["gradients", "gradients"],
    ["batch", "batch"],
    ["activations", "activations in flight"],
    ["transients", "transients"],
  ];
  // A peak lower than this share of capacity is shown alone at first.
  const LOW = 0.3;

  function prepared(data) {
    const { ranks, alive } = data.memory;
    const lanes = pipecut.unpackLanes(data.timeline.predicted.computes);
    const state = {
      data,
      alive,
      lanes,
      curves: [],
      tick: data.timeline.tick,
      chosen: 0,
      // The predicted step fills the picture: of a run, the peak alone is known.
      ticks: data.timeline.predicted.seconds / data.timeline.tick,
      ranks: ranks.map((rank, index) => ({
        ...rank,
        index,
        curve: rank.curve && pipecut.unpack(rank.curve),
      })),
    };
    for (const rank of state.ranks) rank.atPeak = atPeak(state, rank);
    state.whole = state.ranks.some((rank) => total(rank.atPeak) > LOW * rank.capacity);
    return state;
  }

  /* The parts in bytes while an event runs, or `before` it begins. */
  function partsOf(state, rank, position, before = false) {
    const { gradients, activations, transients } = state.alive[rank.curve[position]];
    const { parameters, optimizer, batch } = rank.standing;
    return {
      outside: rank.outside,
      parameters,
      optimizer,
      gradients,
      batch,
      activations,
      transients: before ? 0 : transients,
    };
  }

  function total(parts) {
    return Object.values(parts).reduce((sum, size) => sum + size, 0);
  }

  function atPeak(state, rank) {
    if (!rank.curve) return { outside: rank.outside, parameters: rank.peak };
    let best = partsOf(state, rank, 0);
    for (let at = 1; at < rank.curve.length; at += 1) {
      const parts = partsOf(state, rank, at);
      if (total(parts) > total(best)) best = parts;
    }
    return best;
  }

  /* The highest bytes of the picture. */
  function ceiling(state, rank) {
    const peak = Math.max(total(rank.atPeak), ...rank.measured.map((size) => size + rank.outside));
    return 1.06 * (state.whole ? Math.max(rank.capacity, peak) : peak) || 1;
  }

  /* Twice a position in the curve, and one more before the event begins; -1 after the step. */
  function fullestMoments(state, rank, from, perPixel, count) {
    const { lanes } = state;
    const [first, end] = [lanes.first[rank.index], lanes.first[rank.index + 1]];
    const highest = new Int32Array(count).fill(-1);
    const sizes = new Float64Array(count).fill(-1);
    const put = (begin, stop, position, before) => {
      const size = total(partsOf(state, rank, position, before));
      const low = Math.max(0, Math.floor((begin - from) / perPixel));
      const high = Math.min(count, Math.max(low + 1, Math.ceil((stop - from) / perPixel)));
      for (let pixel = low; pixel < high; pixel += 1) {
        if (size > sizes[pixel]) [sizes[pixel], highest[pixel]] = [size, 2 * position + before];
      }
    };
    const to = from + count * perPixel;
    const begin = Math.max(first, pipecut.firstFrom(lanes.end, from, first, end));
    for (let at = begin; at < end; at += 1) {
      const ended = at > first ? lanes.end[at - 1] : 0;
      if (ended > to) break;
      if (lanes.start[at] > ended) put(ended, lanes.start[at], at - first, 1);
      if (lanes.start[at] <= to) put(lanes.start[at], lanes.end[at], at - first, 0);
    }
    const last = end > first ? lanes.end[end - 1] : 0;
    if (last < to && state.ticks > last + perPixel) put(last, state.ticks, end - first, 1);
    return highest;
  }

  /* The moment of the chosen rank at a place of the canvas: its time, event and parts. */
  function momentAt(state, x) {
    const { size } = state.zoom;
    const rank = state.ranks[state.chosen];
    if (!size || !rank.curve || x < size.left) return null;
    const tick = shareAt(x, size) * state.ticks;
    const { lanes } = state;
    const [first, end] = [lanes.first[rank.index], lanes.first[rank.index + 1]];
    const at = pipecut.firstFrom(lanes.end, tick, first, end);
    const waits = at >= end || lanes.start[at] > tick;
    return { tick, at, waits, parts: partsOf(state, rank, at - first, waits) };
  }

  pipecut.alive = { PARTS, prepared, partsOf, total, ceiling, fullestMoments, momentAt };
}
