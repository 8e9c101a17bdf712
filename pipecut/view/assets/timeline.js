"use strict";
/* Timeline: every rank's lanes, predicted and measured under each other, and the critical path. */
pipecut.view("timeline", (() => {
  const { element, seconds, percent, change, shown, xOf, shareAt } = pipecut;
  const NAMES = {
    F: "forward", B: "backward", I: "gradients of inputs", W: "gradients of weights",
    REDUCE: "sum of gradients", SEND_F: "messages", SEND_B: "messages", SEND: "messages",
    WAIT: "waits, measured",
  };
  const COLOURS = {
    F: "forward", B: "backward", I: "backward", W: "weights", REDUCE: "sums", SEND_F: "transfer",
    SEND_B: "transfer", SEND: "transfer", WAIT: "wait",
  };
  const TOP = 24;
  const TALLEST = 26;
  const SHORTEST = 9;
  // A stage that takes so much of the critical path is worth a name.
  const MUCH = 0.2;
  const TICKS = 2 ** 32 - 1;

  function render(root, data) {
    const state = prepared(data);
    state.zoom = pipecut.zoomCanvas("timeline of all ranks", {
      top: TOP,
      left: () => (state.zoom.size?.width < 560 || innerWidth < 600 ? 62 : 132),
      paint: (context, size) => paint(state, context, size),
      point: (at, event) => onPoint(state, at, event),
      click: (x, y) => select(state, hitAt(state, x, y)),
      scroll: (pixels) => { scroll(state, pixels); },
      key: (event) => onKey(state, event),
    });
    state.details = element("p", { class: "details", "aria-live": "polite", text: HELP });
    root.append(summary(state), tools(state),
      element("div", { class: "canvas-frame" }, state.zoom.canvas), state.details, table(state));
    const draw = () => { fit(state); state.zoom.repaint(); };
    draw();
    return { draw, state };
  }

  const HELP = "Wheel or + and − zoom, drag or arrow keys move, 0 shows the whole step; n and p go "
    + "from event to event, arrows up and down from lane to lane, c shows the critical path.";

  function prepared(data) {
    const { predicted, measured, kinds, tick, ranks } = data.timeline;
    const state = {
      data, kinds, tick, ranks, scrolled: 0, critical: true, messages: predicted.sends.first.at(-1) > 0,
      predicted: { ...predicted, computes: pipecut.unpackLanes(predicted.computes),
        sends: pipecut.unpackLanes(predicted.sends) },
      measured: measured && { ...measured, computes: pipecut.unpackLanes(measured.computes),
        sends: pipecut.unpackLanes(measured.sends) },
      hovered: null, selected: null,
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
    return path.sort((a, b) => lanes.start[a.at] - lanes.start[b.at]);
  }

  /* For each measured compute, the predicted one: the same action of the same pipeline rank. */
  function matchMeasured(state) {
    const { predicted, measured, ranks } = state;
    const key = (lanes, at) => `${lanes.kind[at]} ${lanes.stage[at]} ${lanes.microbatch[at]}`;
    state.twin = new Int32Array(measured.computes.kind.length).fill(-1);
    ranks.forEach((replicas, lane) => {
      const known = new Map();
      for (let at = predicted.computes.first[lane]; at < predicted.computes.first[lane + 1]; at += 1) {
        known.set(key(predicted.computes, at), at);
      }
      for (const rank of replicas) {
        for (let at = measured.computes.first[rank]; at < measured.computes.first[rank + 1]; at += 1) {
          state.twin[at] = known.get(key(measured.computes, at)) ?? -1;
        }
      }
    });
  }

  function duration(state, lanes, at) {
    return (lanes.end[at] - lanes.start[at]) * state.tick;
  }

  /* What stands above the picture. */
  function summary(state) {
    const { predicted, measured } = state;
    const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
    const cards = [["Predicted step", seconds(predicted.seconds), `ranks wait ${percent(mean(predicted.bubbles), 1)} of it`]];
    if (measured) {
      cards.push(["Measured step", seconds(measured.seconds),
        `${change(measured.seconds / predicted.seconds - 1)} of the prediction, ranks wait `
        + percent(mean(measured.bubbles), 1)]);
    }
    cards.push(["Critical path", pathText(predicted, (kind) => kind === "F" || COLOURS[kind] === "backward" || kind === "W"),
      `computes; messages ${pathText(predicted, (kind) => kind.startsWith("SEND"))}, sums ${pathText(predicted, (kind) => kind === "REDUCE")}`]);
    const [stage, taken] = longestStage(predicted);
    if (taken > MUCH * predicted.seconds) {
      cards.push(["Most of the path", `stage ${stage}`, `${percent(taken / predicted.seconds)} of the step`]);
    }
    return element("div", { class: "figures" }, cards.map(([name, value, remark]) =>
      element("div", { class: "figure" }, element("div", { class: "name", text: name }),
        element("div", { class: "value", text: value }),
        element("div", { class: "remark", text: remark }))));
  }

  /* The stage that takes most of the path, and its seconds. */
  function longestStage(predicted) {
    const taken = new Map([[null, 0]]);
    for (const part of predicted.path.filter((each) => each.stage !== null)) {
      taken.set(part.stage, (taken.get(part.stage) || 0) + part.seconds);
    }
    return [...taken].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
  }

  function pathText(predicted, counts) {
    const taken = predicted.path.filter((part) => counts(part.kind))
      .reduce((sum, part) => sum + part.seconds, 0);
    return percent(taken / (predicted.seconds || 1), 1);
  }

  function tools(state) {
    const box = (label, name) => {
      const input = element("input", { type: "checkbox", "data-shows": name });
      input.checked = state[name];
      input.addEventListener("change", () => {
        state[name] = input.checked;
        fit(state);
        state.zoom.repaint();
      });
      return element("label", {}, input, label);
    };
    return element("div", { class: "tools" }, pipecut.zoomButtons(state.zoom),
      box("critical path", "critical"),
      state.predicted.sends.first.at(-1) > 0 && box("messages", "messages"), legend(state));
  }

  function legend(state) {
    const kinds = new Set();
    for (const step of [state.predicted, state.measured].filter(Boolean)) {
      for (const lanes of [step.computes, step.sends]) {
        for (const kind of lanes.kind) kinds.add(state.kinds[kind]);
      }
    }
    const chips = new Map();
    for (const kind of state.kinds.filter((each) => kinds.has(each))) chips.set(NAMES[kind], COLOURS[kind]);
    if (state.measured) {
      chips.set("slower than predicted", "tight");
      chips.set("faster", "good");
    }
    return element("span", { class: "legend" }, [...chips].map(([name, colour]) =>
      element("span", {}, element("i", { style: { background: `var(--${colour})` } }), name)));
  }

  /* The lanes from top to bottom with their places, for a canvas as high as they need. */
  function fit(state) {
    const most = Math.max(260, innerHeight * 0.62);
    let height = TALLEST;
    while (height > SHORTEST && place(state, height) > most) height -= 1;
    const needed = place(state, height);
    state.tall = needed;
    state.zoom.canvas.style.height = `${Math.min(needed, most)}px`;
    // Where lanes are hidden, a finger moves them; otherwise the page.
    state.zoom.canvas.style.touchAction = needed > most ? "none" : "pan-y";
    scroll(state, 0);
  }

  function place(state, height) {
    const { predicted, measured } = state;
    const gap = height > 14 ? 8 : 3;
    state.rows = [];
    let y = TOP;
    const add = (row, tall) => {
      state.rows.push({ ...row, y, height: tall });
      y += tall;
    };
    state.ranks.forEach((replicas, lane) => {
      const name = replicas.length > 1 ? `ranks ${replicas[0]}–${replicas.at(-1)}` : `rank ${replicas[0]}`;
      add({ lanes: predicted.computes, lane, rank: lane, name, share: predicted.bubbles[lane] }, height);
      if (state.messages) add({ lanes: predicted.sends, lane, rank: lane, thin: true }, Math.max(3, Math.round(height / 4)));
      for (const rank of measured ? replicas : []) {
        y += 1;
        const label = replicas.length > 1 ? `measured ${rank}` : "measured";
        add({ lanes: measured.computes, lane: rank, rank: lane, name: label, measured: true, share: measured.bubbles[rank] }, height);
        if (state.messages) add({ lanes: measured.sends, lane: rank, rank: lane, thin: true, measured: true }, Math.max(3, Math.round(height / 4)));
        add({ lanes: measured.computes, lane: rank, rank: lane, thin: true, measured: true, difference: true }, Math.max(2, Math.round(height / 6)));
      }
      y += gap;
    });
    return y;
  }

  function scroll(state, pixels) {
    const high = state.zoom.canvas.style.height.replace("px", "") - 0;
    state.scrolled = Math.min(Math.max(0, state.tall - high), Math.max(0, state.scrolled + pixels));
  }

  function paint(state, context, size) {
    const colours = palette(state);
    const { scale, left, width } = size;
    pipecut.paintAxis(context, size, TICKS * state.tick);
    context.save();
    clip(context, size);
    context.setTransform(1, 0, 0, 1, 0, 0);
    const ticks = ticksOf(state, size);
    const boxes = { left: Math.round(left * scale), width: Math.round((width - left) * scale), ground: colours.lane };
    const visible = state.rows.filter((row) => onScreen(state, row, size));
    const labels = [];
    for (const row of visible) {
      const box = { ...boxes, y: Math.round((row.y - state.scrolled) * scale), height: Math.max(1, Math.round(row.height * scale)) };
      if (!row.thin) {
        context.fillStyle = pipecut.css(colours.lane);
        context.fillRect(box.left, box.y, box.width, box.height);
      }
      const painter = row.difference ? (at) => colours.difference(at)
        : (at) => colours.event(row.lanes, at);
      const wide = pipecut.paintLane(context, row.lanes, row.lane, box, ticks, painter);
      if (!row.thin && row.height >= 12) labels.push({ row, wide, box });
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    writeNumbers(state, context, size, labels);
    if (state.critical) paintPath(state, context, size);
    for (const hit of [state.hovered, state.selected]) outline(state, context, size, hit);
    context.restore();
    paintMargin(state, context, size, visible);
  }

  /* Nothing is painted over the margins. */
  function clip(context, size) {
    context.beginPath();
    context.rect(size.left, TOP, size.width - size.left, size.height - TOP);
    context.clip();
  }

  function onScreen(state, row, size) {
    const y = row.y - state.scrolled;
    return y + row.height > TOP && y < size.height;
  }

  function ticksOf(state, size) {
    const span = (shown.to - shown.from) * TICKS;
    return { from: shown.from * TICKS, perPixel: span / Math.round((size.width - size.left) * size.scale) };
  }

  /* Colours as numbers, by kind; those of a rank's later stages are paler. */
  function palette(state) {
    const ground = pipecut.channels("ground");
    const base = state.kinds.map((kind) => pipecut.channels(COLOURS[kind]));
    const pale = base.map((colour) => [0, 0.3, 0.5, 0.62].map((share) => pipecut.mixed(colour, ground, share)));
    const [slower, faster, lane] = ["tight", "good", "hover"].map((name) => pipecut.channels(name));
    const { chunk, twin, predicted, measured } = state;
    return {
      lane,
      event: (lanes, at) => {
        const position = lanes.stage[at] ? chunk[lanes.stage[at] - 1] : 0;
        return pale[lanes.kind[at]][Math.min(3, position)];
      },
      difference: (at) => {
        if (twin[at] < 0) return null;
        const ratio = duration(state, measured.computes, at) / (duration(state, predicted.computes, twin[at]) || Infinity) - 1;
        return pipecut.mixed(lane, ratio > 0 ? slower : faster, Math.min(1, Math.abs(ratio) * 2));
      },
    };
  }

  /* The number of its microbatch in every event that has room for it. */
  function writeNumbers(state, context, size, labels) {
    context.font = pipecut.canvasFont;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = pipecut.colour("mark-text");
    for (const { row, wide, box } of labels) {
      for (const [at, x, width] of wide) {
        if (!row.lanes.microbatch[at] || state.kinds[row.lanes.kind[at]] === "WAIT") continue;
        const text = String(row.lanes.microbatch[at] - 1);
        if (width / size.scale < 6 + 7 * text.length) continue;
        context.fillText(text, (x + width / 2) / size.scale, (box.y + box.height / 2) / size.scale + 0.5);
      }
    }
  }

  /* A line under the computes of the path, and from each to the next. */
  function paintPath(state, context, size) {
    const lanes = state.predicted.computes;
    const rows = new Map(state.rows.filter((row) => !row.thin && !row.measured).map((row) => [row.lane, row]));
    const y = (lane) => rows.get(lane).y - state.scrolled + rows.get(lane).height - 1.5;
    const x = (tick) => xOf(tick / TICKS, size);
    context.strokeStyle = pipecut.colour("text");
    context.lineWidth = 1;
    const steps = new Path2D();
    const under = new Path2D();
    state.path.forEach(({ at, lane }, position) => {
      const [begin, end] = [x(lanes.start[at]), x(lanes.end[at])];
      const next = state.path[position + 1];
      const after = next ? x(lanes.start[next.at]) : end;
      if (after < size.left || begin > size.width) return;
      under.rect(begin, y(lane) - 1, Math.max(1, end - begin), 2.5);
      if (next && next.lane !== lane) {
        steps.moveTo(end, y(lane));
        steps.lineTo(after, y(next.lane));
      }
    });
    context.stroke(steps);
    context.fillStyle = pipecut.colour("text");
    context.fill(under);
  }

  function outline(state, context, size, hit) {
    if (!hit) return;
    const row = rowOf(state, hit);
    if (!row || !onScreen(state, row, size)) return;
    const [begin, end] = [row.lanes.start[hit.at], row.lanes.end[hit.at]].map((tick) => xOf(tick / TICKS, size));
    context.strokeStyle = pipecut.colour(hit === state.selected ? "accent" : "text");
    context.lineWidth = 2;
    context.strokeRect(begin, row.y - state.scrolled + 1, Math.max(2, end - begin), row.height - 2);
  }

  function rowOf(state, hit) {
    return state.rows.find((row) => row.lanes === hit.lanes && row.lane === hit.lane && !row.difference);
  }

  /* Names and bubbles at the left, seconds at the top. */
  function paintMargin(state, context, size, visible) {
    const narrow = size.left < 100;
    context.font = pipecut.canvasFont;
    context.textBaseline = "middle";
    let last = -Infinity;
    for (const row of visible.filter((each) => each.name)) {
      const y = row.y - state.scrolled + row.height / 2;
      if (y - last < 12 || y < TOP + 4) continue;
      last = y;
      context.textAlign = "left";
      context.fillStyle = pipecut.colour(row.measured ? "muted" : "text");
      context.fillText(narrow ? row.name.replace("ranks ", "").replace("rank ", "").replace("measured", "m") : row.name, 0, y);
      context.textAlign = "right";
      context.fillStyle = pipecut.colour("muted");
      context.fillText(percent(row.share, narrow ? 0 : 1), size.left - 8, y);
    }
    paintScrollbar(state, context, size);
    context.textAlign = "right";
    context.fillStyle = pipecut.colour("muted");
    context.fillText("bubble", size.left - 8, TOP / 2);
  }

  /* Which of the lanes are shown, where not all of them fit. */
  function paintScrollbar(state, context, size) {
    const high = size.height - TOP;
    const lanes = state.tall - TOP;
    if (lanes <= high + 1) return;
    context.fillStyle = pipecut.colour("muted");
    context.globalAlpha = 0.7;
    context.fillRect(size.width - 4, TOP + (high * state.scrolled) / lanes, 4, (high * high) / lanes);
    context.globalAlpha = 1;
  }

  function hitAt(state, x, y) {
    const { size } = state.zoom;
    if (!size || x < size.left || y < TOP) return null;
    const at = y + state.scrolled;
    const row = state.rows.find((each) => at >= each.y && at < each.y + each.height);
    if (!row) return null;
    const slack = (2 * (shown.to - shown.from) * TICKS) / (size.width - size.left);
    const event = pipecut.eventAt(row.lanes, row.lane, shareAt(x, size) * TICKS, slack);
    return event < 0 ? null : { lanes: row.lanes, lane: row.lane, rank: row.rank, measured: row.measured, at: event };
  }

  function onPoint(state, at, event) {
    const hit = at && hitAt(state, at.x, at.y);
    if (hit) pipecut.showTip(event.clientX, event.clientY, describe(state, hit));
    else pipecut.hideTip();
    if (hit?.at !== state.hovered?.at || hit?.lanes !== state.hovered?.lanes) {
      state.hovered = hit;
      state.zoom.repaint();
    }
  }

  /* What an event is, in lines. */
  function describe(state, hit) {
    const { lanes, at } = hit;
    const kind = state.kinds[lanes.kind[at]];
    const [begin, end] = [lanes.start[at] * state.tick, lanes.end[at] * state.tick];
    const lines = [`${hit.measured ? `rank ${hit.lane}, measured` : rankName(state, hit.lane)}: ${what(kind, lanes, at)}`];
    if (lanes.stage[at]) lines.push(short(state.data.plan.stages[lanes.stage[at] - 1].modules.join(", ")));
    lines.push(`${seconds(end - begin)}, from ${seconds(begin)} to ${seconds(end)}`);
    if (hit.measured && lanes === state.measured.computes && state.twin[at] >= 0) {
      const twin = state.twin[at];
      const expected = duration(state, state.predicted.computes, twin);
      const late = begin - state.predicted.computes.start[twin] * state.tick;
      lines.push(`predicted ${seconds(expected)} (${change((end - begin) / (expected || Infinity) - 1)}), `
        + `begins ${seconds(Math.abs(late))} ${late < 0 ? "earlier" : "later"}`);
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

  function select(state, hit) {
    state.selected = hit;
    state.details.textContent = hit ? describe(state, hit).replaceAll("\n", " · ") : HELP;
    state.zoom.repaint();
  }

  const MOVES = { n: 1, p: -1 };

  function onKey(state, event) {
    if (event.key in MOVES) return step(state, MOVES[event.key]);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") return changeLane(state, event.key === "ArrowDown" ? 1 : -1);
    if (event.key === "Escape") select(state, null);
    else if (event.key === "c") {
      state.critical = !state.critical;
      state.zoom.canvas.closest("section").querySelector("[data-shows=critical]").checked = state.critical;
    } else return false;
    return true;
  }

  /* To the next event of the lane; to the first that is shown where none is selected. */
  function step(state, by) {
    const { selected } = state;
    if (!selected) {
      const row = state.rows[0];
      const at = pipecut.eventAt(row.lanes, row.lane, shown.from * TICKS, TICKS);
      if (at >= 0) choose(state, row, at);
      return true;
    }
    const at = selected.at + by;
    if (at >= selected.lanes.first[selected.lane] && at < selected.lanes.first[selected.lane + 1]) {
      choose(state, rowOf(state, selected), at);
    }
    return true;
  }

  function choose(state, row, at) {
    pipecut.reveal(row.lanes.start[at] / TICKS, row.lanes.end[at] / TICKS);
    const above = row.y - state.scrolled - TOP;
    const below = row.y + row.height - state.scrolled - state.zoom.canvas.style.height.replace("px", "");
    if (above < 0) scroll(state, above);
    else if (below > 0) scroll(state, below);
    select(state, { lanes: row.lanes, lane: row.lane, rank: row.rank, measured: row.measured, at });
  }

  /* To the lane above or below at the same time; without a selection the lanes scroll. */
  function changeLane(state, by) {
    if (!state.selected) {
      scroll(state, by * 40);
      return true;
    }
    const rows = state.rows.filter((row) => !row.thin);
    const here = rows.findIndex((row) => row.rank === state.selected.rank && Boolean(row.measured) === Boolean(state.selected.measured)
      && (row.lane === state.selected.lane || !row.measured));
    const row = rows[here + by];
    if (!row) return true;
    const { lanes, at } = state.selected;
    const found = pipecut.eventAt(row.lanes, row.lane, (lanes.start[at] + lanes.end[at]) / 2, TICKS);
    if (found >= 0) choose(state, row, found);
    return true;
  }

  /* The same as numbers, a row per rank. */
  function table(state) {
    const { predicted, measured, ranks } = state;
    const rows = ranks.flatMap((replicas, lane) => (measured ? replicas : [replicas[0]]).map((rank) => {
      const busy = (1 - predicted.bubbles[lane]) * predicted.seconds;
      const took = measured && (1 - measured.bubbles[rank]) * measured.seconds;
      return { lane, rank, busy, took, share: predicted.bubbles[lane], wait: measured?.bubbles[rank] };
    }));
    const columns = [
      { title: "rank", number: true, cell: (row) => (measured ? row.rank : rankName(state, row.lane).replace(/ranks? /, "")) },
      { title: "computes, predicted", number: true, cell: (row) => seconds(row.busy) },
      measured && { title: "measured", number: true, cell: (row) => seconds(row.took) },
      measured && { title: "difference", number: true, cell: (row) => change(row.took / (row.busy || 1) - 1) },
      { title: "bubble, predicted", number: true, cell: (row) => percent(row.share, 1) },
      measured && { title: "measured", number: true, cell: (row) => percent(row.wait, 1) },
    ].filter(Boolean);
    return element("details", { class: "part" }, element("summary", { text: "Each rank in numbers" }),
      pipecut.table(columns, rows));
  }

  return { title: "Timeline", render };
})());
