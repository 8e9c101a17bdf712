"use strict";
/* Memory: what is alive on each rank over the step, of what it consists, against capacity. */
pipecut.view("memory", (() => {
  const { element, seconds, bytes, percent, change, shown, xOf, shareAt } = pipecut;
  // From the bottom to the top.
  const PARTS = [
    ["outside", "context and communicators"], ["parameters", "parameters"],
    ["optimizer", "optimizer"], ["gradients", "gradients"], ["batch", "batch"],
    ["activations", "activations in flight"], ["transients", "transients"],
  ];
  const TOP = 24;
  // With more ranks than these a page would be full of small curves.
  const MOST_CURVES = 128;
  // A peak lower than this share of capacity is shown alone at first.
  const LOW = 0.3;

  function render(root, data) {
    const state = prepared(data);
    state.zoom = pipecut.zoomCanvas("memory of a rank over the step", {
      top: TOP,
      left: () => (innerWidth < 600 ? 58 : 84),
      paint: (context, size) => paint(state, context, size),
      point: (at, event) => onPoint(state, at, event),
      click: (x) => say(state, x),
      scroll: () => {},
      key: (event) => onKey(state, event),
    });
    state.zoom.canvas.classList.add("memory-canvas");
    state.title = element("h2", {});
    state.details = element("p", { class: "details", "aria-live": "polite", text: HELP });
    state.list = element("div", { class: "part" });
    root.append(state.title, tools(state),
      element("div", { class: "canvas-frame" }, state.zoom.canvas), state.details, state.list);
    list(state);
    choose(state, fullest(state));
    return {
      state,
      draw: () => { state.zoom.repaint(); state.curves.forEach((draw) => draw()); },
      choose: (rank) => choose(state, Math.min(state.ranks.length - 1, Math.max(0, rank | 0))),
    };
  }

  const HELP = "Wheel or + and − zoom, drag or arrow keys move, 0 shows the whole step; arrows up and "
    + "down go from rank to rank.";

  function prepared(data) {
    const { ranks, alive } = data.memory;
    const lanes = pipecut.unpackLanes(data.timeline.predicted.computes);
    const state = {
      data, alive, lanes, curves: [], tick: data.timeline.tick, chosen: 0,
      // The predicted step fills the picture: of a run, the peak alone is known.
      ticks: data.timeline.predicted.seconds / data.timeline.tick,
      ranks: ranks.map((rank, index) => ({ ...rank, index, curve: rank.curve && pipecut.unpack(rank.curve) })),
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
      outside: rank.outside, parameters, optimizer, gradients, batch, activations,
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

  function fullest(state) {
    const share = (rank) => total(rank.atPeak) / rank.capacity;
    return state.ranks.reduce((best, rank) => (share(rank) > share(best) ? rank : best)).index;
  }

  function nameOf(state, index) {
    const replicas = state.data.timeline.ranks[index];
    return replicas.length > 1 ? `ranks ${replicas[0]}–${replicas.at(-1)}` : `rank ${replicas[0]}`;
  }

  function choose(state, index) {
    state.chosen = index;
    const rank = state.ranks[index];
    const stages = state.data.plan.stages.filter((stage) => stage.rank === index).map((stage) => stage.index);
    const device = state.data.plan.stages.find((stage) => stage.rank === index).device;
    state.title.textContent = `${nameOf(state, index)}, stage${stages.length > 1 ? "s" : ""} ${stages.join(", ")}: `
      + `${bytes(total(rank.atPeak))} of ${bytes(rank.capacity)} of ${device} at the peak`;
    for (const row of state.list.querySelectorAll("tbody tr")) {
      row.setAttribute("aria-current", row.dataset.rank === String(index));
    }
    state.zoom.repaint();
  }

  function tools(state) {
    const input = element("input", { type: "checkbox", "data-shows": "capacity" });
    input.checked = state.whole;
    input.addEventListener("change", () => {
      state.whole = input.checked;
      state.zoom.repaint();
      state.curves.forEach((draw) => draw());
    });
    return element("div", { class: "tools" }, pipecut.zoomButtons(state.zoom),
      element("label", {}, input, "up to capacity"), legend(state));
  }

  function legend(state) {
    const there = PARTS.filter(([name]) => state.ranks.some((rank) => rank.atPeak[name] > 0));
    return element("span", { class: "legend" }, there.map(([name, label]) =>
      element("span", {}, element("i", { style: { background: `var(--of-${name})` } }), label)));
  }

  /* The highest bytes of the picture. */
  function ceiling(state, rank) {
    const peak = Math.max(total(rank.atPeak), ...rank.measured.map((size) => size + rank.outside));
    return 1.06 * (state.whole ? Math.max(rank.capacity, peak) : peak) || 1;
  }

  function paint(state, context, size) {
    const rank = state.ranks[state.chosen];
    const top = ceiling(state, rank);
    const y = (value) => size.height - ((size.height - TOP) * value) / top;
    pipecut.paintAxis(context, size, state.ticks * state.tick);
    paintScale(context, size, top, y);
    if (rank.curve) paintParts(state, context, size, rank, y);
    else paintText(context, size, "An operator cannot run on fake tensors: only an upper bound is known.");
    line(context, size, y(rank.capacity), `capacity ${bytes(rank.capacity)}`, "tight");
    const measured = Math.max(0, ...rank.measured);
    if (measured) line(context, size, y(measured + rank.outside), `measured peak ${bytes(measured + rank.outside)}`, "accent");
    if (!state.whole && rank.capacity > top) {
      context.fillStyle = pipecut.colour("muted");
      context.textAlign = "left";
      context.fillText(`capacity ${bytes(rank.capacity)} lies above`, size.left + 6, TOP + 8);
    }
  }

  function paintText(context, size, text) {
    context.fillStyle = pipecut.colour("muted");
    context.textAlign = "center";
    context.fillText(text, (size.left + size.width) / 2, (TOP + size.height) / 2);
  }

  /* Lines at round bytes. */
  function paintScale(context, size, top, y) {
    const wanted = top / Math.max(2, (size.height - TOP) / 60);
    const unit = 1024 ** Math.max(0, Math.floor(Math.log(wanted) / Math.log(1024)));
    const every = unit * [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024].find((step) => step * unit >= wanted);
    context.font = pipecut.canvasFont;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let value = 0; value < top; value += every) {
      context.fillStyle = pipecut.colour("line");
      context.fillRect(size.left, Math.round(y(value)) - 1, size.width - size.left, 1);
      context.fillStyle = pipecut.colour("muted");
      const text = bytes(value).replace(".0", "");
      context.fillText(text, size.left - 8, Math.max(TOP + 6, Math.min(size.height - 6, y(value))));
    }
  }

  /* For each pixel the fullest moment in it, as what it consists of. */
  function paintParts(state, context, size, rank, y) {
    const { scale } = size;
    const count = Math.round((size.width - size.left) * scale);
    const from = shown.from * state.ticks;
    const perPixel = ((shown.to - shown.from) * state.ticks) / count;
    const highest = fullestMoments(state, rank, from, perPixel, count);
    const edges = PARTS.map(([name]) => pipecut.colour(`of-${name}`));
    let begin = 0;
    for (let pixel = 1; pixel <= count; pixel += 1) {
      if (pixel < count && highest[pixel] === highest[begin]) continue;
      if (highest[begin] >= 0) {
        const parts = partsOf(state, rank, highest[begin] >> 1, highest[begin] & 1);
        let below = 0;
        PARTS.forEach(([name], part) => {
          if (!parts[name]) return;
          context.fillStyle = edges[part];
          const [low, high] = [y(below), y(below + parts[name])];
          context.fillRect(size.left + begin / scale, high, (pixel - begin) / scale, low - high);
          below += parts[name];
        });
      }
      begin = pixel;
    }
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

  function line(context, size, y, text, colour) {
    if (y < TOP) return;
    context.save();
    context.strokeStyle = pipecut.colour(colour);
    context.fillStyle = pipecut.colour(colour);
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(size.left, Math.round(y) + 0.5);
    context.lineTo(size.width, Math.round(y) + 0.5);
    context.stroke();
    context.font = pipecut.canvasFont;
    context.textAlign = "right";
    const wide = context.measureText(text).width;
    const above = y - 9 > TOP ? y - 9 : y + 9;
    context.fillStyle = pipecut.colour("ground");
    context.globalAlpha = 0.8;
    context.fillRect(size.width - wide - 8, above - 7, wide + 8, 14);
    context.globalAlpha = 1;
    context.fillStyle = pipecut.colour(colour);
    context.fillText(text, size.width - 4, above);
    context.restore();
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

  function lines(state, moment) {
    const { lanes, data } = state;
    const parts = PARTS.filter(([name]) => moment.parts[name] > 0)
      .map(([name, label]) => `${label} ${bytes(moment.parts[name])}`);
    let doing = "waits";
    if (!moment.waits) {
      const kind = data.timeline.kinds[lanes.kind[moment.at]];
      doing = lanes.stage[moment.at] ? `${kind} ${lanes.stage[moment.at] - 1}.${lanes.microbatch[moment.at] - 1}` : "sum of gradients";
    }
    return [`${bytes(total(moment.parts))} at ${seconds(moment.tick * state.tick)} (${doing})`, ...parts.reverse()];
  }

  function onPoint(state, at, event) {
    const moment = at && at.y >= TOP && momentAt(state, at.x);
    if (moment) pipecut.showTip(event.clientX, event.clientY, lines(state, moment).join("\n"));
    else pipecut.hideTip();
  }

  function say(state, x) {
    const moment = momentAt(state, x);
    state.details.textContent = moment ? lines(state, moment).join(" · ") : HELP;
  }

  function onKey(state, event) {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by) return false;
    choose(state, (state.chosen + by + state.ranks.length) % state.ranks.length);
    return true;
  }

  /* All ranks: what each consists of at its peak, and its curve. */
  function list(state) {
    const measured = state.ranks.some((rank) => rank.measured.some(Boolean));
    const widest = Math.max(...state.ranks.map((rank) => ceiling(state, rank)));
    const columns = [
      { title: "rank", cell: (rank) => element("button", { type: "button", class: "link", text: nameOf(state, rank.index).replace(/ranks? /, "") }) },
      state.ranks.length <= MOST_CURVES && { title: "over the step", cell: (rank) => smallCurve(state, rank) },
      { title: "at the peak", class: "wide", cell: (rank) => pipecut.bar(
        PARTS.filter(([name]) => rank.atPeak[name]).map(([name]) => ({ share: rank.atPeak[name] / (state.whole ? rank.capacity : widest), class: `of-${name}` })),
        PARTS.filter(([name]) => rank.atPeak[name]).map(([name, label]) => `${label} ${bytes(rank.atPeak[name])}`).join(", ")) },
      { title: "peak", number: true, cell: (rank) => bytes(total(rank.atPeak)) },
      { title: "of capacity", number: true, cell: (rank) => percent(total(rank.atPeak) / rank.capacity) },
      measured && { title: "measured", number: true, cell: (rank) => rank.measured.map((size) => (size ? bytes(size + rank.outside) : "–")).join(", ") },
      measured && { title: "difference", number: true, cell: (rank) => difference(rank) },
    ].filter(Boolean);
    const row = (rank) => ({ "data-rank": rank.index, on: { click: () => choose(state, rank.index) } });
    state.list.append(element("h2", { text: "All ranks" }), pipecut.table(columns, state.ranks, { class: "ranks", row }));
  }

  function difference(rank) {
    const size = Math.max(0, ...rank.measured);
    return size ? change((size + rank.outside) / total(rank.atPeak) - 1) : "–";
  }

  function smallCurve(state, rank) {
    const canvas = element("canvas", { class: "curve", role: "img", "aria-label": "memory over the step" });
    const draw = () => {
      const [width, height] = [150, 22].map((pixels) => Math.round(pixels * (devicePixelRatio || 1)));
      Object.assign(canvas, { width, height });
      if (!rank.curve) return;
      const context = canvas.getContext("2d");
      const top = ceiling(state, rank);
      const moments = fullestMoments(state, rank, 0, state.ticks / width, width);
      context.fillStyle = pipecut.colour("memory");
      moments.forEach((moment, x) => {
        if (moment < 0) return;
        const high = (total(partsOf(state, rank, moment >> 1, moment & 1)) / top) * height;
        context.fillRect(x, height - high, 1, high);
      });
    };
    state.curves.push(draw);
    draw();
    return canvas;
  }

  return { title: "Memory", render };
})());
