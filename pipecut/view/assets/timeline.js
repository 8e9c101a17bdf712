"use strict";
/* Timeline: every rank's lanes, predicted and measured under each other, and the critical path. */
{
  const { element, seconds, percent, change, shown, shareAt } = pipecut;
  const { TICKS, TOP, NAMES, COLOURS, prepared, describe, rankName } = pipecut.steps;
  const { paint, rowOf } = pipecut.stepPicture;
  const TALLEST = 26;
  const SHORTEST = 9;
  // A stage that takes so much of the critical path is worth a name.
  const MUCH = 0.2;
  const MOVES = { n: 1, p: -1 };
  const HELP =
    "Wheel or + and − zoom, drag or arrow keys move, 0 shows the whole step; n and p go " +
    "from event to event, arrows up and down from lane to lane, c shows the critical path.";

  function render(root, data) {
    const state = prepared(data);
    state.zoom = pipecut.zoomCanvas("timeline of all ranks", {
      top: TOP,
      left: () => (state.zoom.size?.width < 560 || innerWidth < 600 ? 62 : 132),
      paint: (context, size) => paint(state, context, size),
      point: (at, event) => onPoint(state, at, event),
      click: (x, y) => select(state, hitAt(state, x, y)),
      scroll: (pixels) => {
        scroll(state, pixels);
      },
      key: (event) => onKey(state, event),
    });
    state.details = element("p", { class: "details", "aria-live": "polite", text: HELP });
    root.append(
      summary(state),
      tools(state),
      element("div", { class: "canvas-frame" }, state.zoom.canvas),
      state.details,
      table(state),
    );
    const draw = () => {
      fit(state);
      state.zoom.repaint();
    };
    draw();
    return { draw, state };
  }

  /* What stands above the picture. */
  function summary(state) {
    const { predicted, measured } = state;
    const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
    const cards = [
      [
        "Predicted step",
        seconds(predicted.seconds),
        `ranks wait ${percent(mean(predicted.bubbles), 1)} of it`,
      ],
    ];
    if (measured) {
      cards.push([
        "Measured step",
        seconds(measured.seconds),
        `${change(measured.seconds / predicted.seconds - 1)} beside the predicted, ranks wait ` +
          percent(mean(measured.bubbles), 1),
      ]);
    }
    cards.push([
      "Critical path",
      pathText(predicted, (kind) => kind === "F" || COLOURS[kind] === "backward" || kind === "W"),
      `computes; messages ${pathText(predicted, (kind) => kind.startsWith("SEND"))}, ` +
        `sums ${pathText(predicted, (kind) => kind === "REDUCE")}`,
    ]);
    const [stage, taken] = longestStage(predicted);
    if (taken > MUCH * predicted.seconds) {
      cards.push([
        "Most of the path",
        `stage ${stage}`,
        `${percent(taken / predicted.seconds)} of the step`,
      ]);
    }
    return element(
      "div",
      { class: "figures" },
      cards.map(([name, value, remark]) =>
        element(
          "div",
          { class: "figure" },
          element("div", { class: "name", text: name }),
          element("div", { class: "value", text: value }),
          element("div", { class: "remark", text: remark }),
        ),
      ),
    );
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
    const taken = predicted.path
      .filter((part) => counts(part.kind))
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
    return element(
      "div",
      { class: "tools" },
      pipecut.zoomButtons(state.zoom),
      box("critical path", "critical"),
      state.predicted.sends.first.at(-1) ? box("messages", "messages") : null,
      legend(state),
    );
  }

  function legend(state) {
    const kinds = new Set();
    for (const step of [state.predicted, state.measured].filter(Boolean)) {
      for (const lanes of [step.computes, step.sends]) {
        for (const kind of lanes.kind) kinds.add(state.kinds[kind]);
      }
    }
    const chips = new Map();
    for (const kind of state.kinds.filter((each) => kinds.has(each)))
      chips.set(NAMES[kind], COLOURS[kind]);
    if (state.measured) {
      chips.set("slower than predicted", "tight");
      chips.set("faster", "good");
    }
    return element(
      "span",
      { class: "legend" },
      [...chips].map(([name, colour]) =>
        element("span", {}, element("i", { style: { background: `var(--${colour})` } }), name),
      ),
    );
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
      const name =
        replicas.length > 1 ? `ranks ${replicas[0]}–${replicas.at(-1)}` : `rank ${replicas[0]}`;
      add(
        { lanes: predicted.computes, lane, rank: lane, name, share: predicted.bubbles[lane] },
        height,
      );
      if (state.messages)
        add(
          { lanes: predicted.sends, lane, rank: lane, thin: true },
          Math.max(3, Math.round(height / 4)),
        );
      for (const rank of measured ? replicas : []) {
        y += 1;
        const label = replicas.length > 1 ? `measured ${rank}` : "measured";
        add(
          {
            lanes: measured.computes,
            lane: rank,
            rank: lane,
            name: label,
            measured: true,
            share: measured.bubbles[rank],
          },
          height,
        );
        if (state.messages)
          add(
            { lanes: measured.sends, lane: rank, rank: lane, thin: true, measured: true },
            Math.max(3, Math.round(height / 4)),
          );
        add(
          {
            lanes: measured.computes,
            lane: rank,
            rank: lane,
            thin: true,
            measured: true,
            difference: true,
          },
          Math.max(2, Math.round(height / 6)),
        );
      }
      y += gap;
    });
    return y;
  }

  function scroll(state, pixels) {
    const high = state.zoom.canvas.style.height.replace("px", "") - 0;
    state.scrolled = Math.min(Math.max(0, state.tall - high), Math.max(0, state.scrolled + pixels));
  }

  function hitAt(state, x, y) {
    const { size } = state.zoom;
    if (!size || x < size.left || y < TOP) return null;
    const at = y + state.scrolled;
    const row = state.rows.find((each) => at >= each.y && at < each.y + each.height);
    if (!row) return null;
    const slack = (2 * (shown.to - shown.from) * TICKS) / (size.width - size.left);
    const event = pipecut.eventAt(row.lanes, row.lane, shareAt(x, size) * TICKS, slack);
    return event < 0
      ? null
      : { lanes: row.lanes, lane: row.lane, rank: row.rank, measured: row.measured, at: event };
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

  function select(state, hit) {
    state.selected = hit;
    state.details.textContent = hit ? describe(state, hit).replaceAll("\n", " · ") : HELP;
    state.zoom.repaint();
  }

  function onKey(state, event) {
    if (event.key in MOVES) return step(state, MOVES[event.key]);
    if (event.key === "ArrowDown" || event.key === "ArrowUp")
      return changeLane(state, event.key === "ArrowDown" ? 1 : -1);
    if (event.key === "Escape") select(state, null);
    else if (event.key === "c") {
      state.critical = !state.critical;
      state.zoom.canvas.closest("section").querySelector("[data-shows=critical]").checked =
        state.critical;
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
    const below =
      row.y + row.height - state.scrolled - state.zoom.canvas.style.height.replace("px", "");
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
    const here = rows.findIndex(
      (row) =>
        row.rank === state.selected.rank &&
        Boolean(row.measured) === Boolean(state.selected.measured) &&
        (row.lane === state.selected.lane || !row.measured),
    );
    const row = rows[here + by];
    if (!row) return true;
    const { lanes, at } = state.selected;
    const found = pipecut.eventAt(
      row.lanes,
      row.lane,
      (lanes.start[at] + lanes.end[at]) / 2,
      TICKS,
    );
    if (found >= 0) choose(state, row, found);
    return true;
  }

  /* The same as numbers, a row per rank. */
  function table(state) {
    const { predicted, measured, ranks } = state;
    const rows = ranks.flatMap((replicas, lane) =>
      (measured ? replicas : [replicas[0]]).map((rank) => {
        const busy = (1 - predicted.bubbles[lane]) * predicted.seconds;
        const took = measured && (1 - measured.bubbles[rank]) * measured.seconds;
        return {
          lane,
          rank,
          busy,
          took,
          share: predicted.bubbles[lane],
          wait: measured?.bubbles[rank],
        };
      }),
    );
    const columns = [
      {
        title: "rank",
        number: true,
        cell: (row) => (measured ? row.rank : rankName(state, row.lane).replace(/ranks? /, "")),
      },
      { title: "computes, predicted", number: true, cell: (row) => seconds(row.busy) },
      measured && { title: "measured", number: true, cell: (row) => seconds(row.took) },
      measured && {
        title: "difference",
        number: true,
        cell: (row) => change(row.took / (row.busy || 1) - 1),
      },
      { title: "bubble, predicted", number: true, cell: (row) => percent(row.share, 1) },
      measured && { title: "measured", number: true, cell: (row) => percent(row.wait, 1) },
    ].filter(Boolean);
    return element(
      "details",
      { class: "part" },
      element("summary", { text: "Each rank in numbers" }),
      pipecut.table(columns, rows),
    );
  }

  pipecut.view("timeline", { title: "Timeline", render });
}
