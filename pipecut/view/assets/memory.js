"use strict";
/* Memory: what is alive on each rank over the step, of what it consists, against capacity. */
{
  const { element, seconds, bytes, percent, change } = pipecut;
  const { PARTS, prepared, total, ceiling, momentAt } = pipecut.alive;
  const { TOP, paint, smallCurve } = pipecut.memoryPicture;
  // With more ranks than these a page would be full of small curves.
  const MOST_CURVES = 128;
  const HELP =
    "Wheel or + and − zoom, drag or arrow keys move, 0 shows the whole step; arrows up and " +
    "down go from rank to rank.";

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
    root.append(
      state.title,
      tools(state),
      element("div", { class: "canvas-frame" }, state.zoom.canvas),
      state.details,
      state.list,
    );
    list(state);
    choose(state, fullest(state));
    return {
      state,
      draw: () => {
        state.zoom.repaint();
        state.curves.forEach((draw) => draw());
      },
      choose: (rank) => choose(state, Math.min(state.ranks.length - 1, Math.max(0, rank | 0))),
    };
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
    const stages = state.data.plan.stages
      .filter((stage) => stage.rank === index)
      .map((stage) => stage.index);
    const device = state.data.plan.stages.find((stage) => stage.rank === index).device;
    state.title.textContent =
      `${nameOf(state, index)}, stage${stages.length > 1 ? "s" : ""} ${stages.join(", ")}: ` +
      `${bytes(total(rank.atPeak))} of ${bytes(rank.capacity)} of ${device} at the peak`;
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
    return element(
      "div",
      { class: "tools" },
      pipecut.zoomButtons(state.zoom),
      element("label", {}, input, "up to capacity"),
      legend(state),
    );
  }

  function legend(state) {
    const there = PARTS.filter(([name]) => state.ranks.some((rank) => rank.atPeak[name] > 0));
    return element(
      "span",
      { class: "legend" },
      there.map(([name, label]) =>
        element("span", {}, element("i", { style: { background: `var(--of-${name})` } }), label),
      ),
    );
  }

  function lines(state, moment) {
    const { lanes, data } = state;
    const parts = PARTS.filter(([name]) => moment.parts[name] > 0).map(
      ([name, label]) => `${label} ${bytes(moment.parts[name])}`,
    );
    let doing = "waits";
    if (!moment.waits) {
      const kind = data.timeline.kinds[lanes.kind[moment.at]];
      doing = lanes.stage[moment.at]
        ? `${kind} ${lanes.stage[moment.at] - 1}.${lanes.microbatch[moment.at] - 1}`
        : "sum of gradients";
    }
    return [
      `${bytes(total(moment.parts))} at ${seconds(moment.tick * state.tick)} (${doing})`,
      ...parts.reverse(),
    ];
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
      {
        title: "rank",
        cell: (rank) =>
          element("button", {
            type: "button",
            class: "link",
            text: nameOf(state, rank.index).replace(/ranks? /, ""),
          }),
      },
      state.ranks.length <= MOST_CURVES && {
        title: "over the step",
        cell: (rank) => smallCurve(state, rank),
      },
      {
        title: "at the peak",
        class: "wide",
        cell: (rank) =>
          pipecut.bar(
            PARTS.filter(([name]) => rank.atPeak[name]).map(([name]) => ({
              share: rank.atPeak[name] / (state.whole ? rank.capacity : widest),
              class: `of-${name}`,
            })),
            PARTS.filter(([name]) => rank.atPeak[name])
              .map(([name, label]) => `${label} ${bytes(rank.atPeak[name])}`)
              .join(", "),
          ),
      },
      { title: "peak", number: true, cell: (rank) => bytes(total(rank.atPeak)) },
      {
        title: "of capacity",
        number: true,
        cell: (rank) => percent(total(rank.atPeak) / rank.capacity),
      },
      measured && {
        title: "measured",
        number: true,
        cell: (rank) =>
          rank.measured.map((size) => (size ? bytes(size + rank.outside) : "–")).join(", "),
      },
      measured && { title: "difference", number: true, cell: (rank) => difference(rank) },
    ].filter(Boolean);
    const row = (rank) => ({
      "data-rank": rank.index,
      on: { click: () => choose(state, rank.index) },
    });
    state.list.append(
      element("h2", { text: "All ranks" }),
      pipecut.table(columns, state.ranks, { class: "ranks", row }),
    );
  }

  function difference(rank) {
    const size = Math.max(0, ...rank.measured);
    return size ? change((size + rank.outside) / total(rank.atPeak) - 1) : "–";
  }

  pipecut.view("memory", { title: "Memory", render });
}
