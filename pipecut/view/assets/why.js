"use strict";
/* Why: what binds, what another cut would cost, what was tried and why it lost. */
pipecut.view("why", (() => {
  const { element, seconds, bytes, percent, change, section } = pipecut;
  // Changes that are smaller are rounding.
  const SAME = 1e-6;
  const state = { problem: null, planned: null, cut: null, handles: [] };

  function render(root, data) {
    const why = data.why;
    root.append(section("What binds", element("dl", { class: "reasons" },
      why.binds.flatMap(({ subject, text }) => [element("dt", { text: subject }), element("dd", { text })]))));
    if (why.cut && why.cut.devices.length > 1) root.append(anotherCut(why.cut));
    root.append(candidates(why));
    if (why.limits.length) root.append(limits(why));
    if (why.cut && why.cut.devices.length > 1) price();
  }

  function anotherCut(problem) {
    state.problem = problem;
    state.planned = pipecut.plannedCut(problem);
    state.cut = [...state.planned];
    state.first = pipecut.priceCut(problem, state.planned);
    state.edges = edgesOf(problem);
    state.strip = element("div", { class: "blocks" });
    state.verdict = element("p", { class: "verdict", "aria-live": "polite" });
    state.rows = element("div");
    const reset = element("button", { type: "button", class: "plain", text: "Back to the plan's cut",
      on: { click: () => { state.cut = [...state.planned]; price(); } } });
    drawStrip();
    return section("What another cut would cost",
      element("p", { class: "muted", text: "Drag a boundary between blocks, or choose it and press "
        + "← → for a block, Page Up and Page Down for a layer. All blocks in order, as wide as they take." }),
      state.strip, state.verdict, reset, state.rows);
  }

  /* The place of each block's left edge in the strip, from 0 to 1; one more for the end. */
  function edgesOf(problem) {
    const edges = [0];
    for (const block of problem.blocks) {
      edges.push(edges[edges.length - 1] + (block.seconds[problem.devices[block.stage].kind] || 0));
    }
    const total = edges[edges.length - 1] || 1;
    return edges.map((edge) => edge / total);
  }

  function drawStrip() {
    state.fills = state.problem.devices.map((_, stage) =>
      element("span", { class: "fill", style: pipecut.stageStyle(stage) }));
    state.handles = state.cut.map((_, boundary) => handle(boundary));
    state.strip.replaceChildren(...state.fills, ...layerMarks(), ...state.handles);
  }

  function layerMarks() {
    const { blocks } = state.problem;
    const marks = [];
    blocks.forEach((block, index) => {
      if (index && block.layer !== blocks[index - 1].layer) {
        marks.push(element("i", { class: "layer-mark", style: { left: percent(state.edges[index], 3) } }));
      }
    });
    return marks;
  }

  function handle(boundary) {
    return element("button", {
      type: "button", class: "handle", role: "slider", "aria-label": `boundary after stage ${boundary}`,
      "aria-valuemin": 1, "aria-valuemax": state.problem.blocks.length - 1,
      on: { pointerdown: (event) => drag(event, boundary), keydown: (event) => onKey(event, boundary) },
    });
  }

  function drag(event, boundary) {
    const node = event.currentTarget;
    node.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const box = state.strip.getBoundingClientRect();
      moveTo(boundary, nearestEdge((moved.clientX - box.left) / box.width));
      pipecut.showTip(moved.clientX, moved.clientY, namesAt(boundary));
    };
    node.addEventListener("pointermove", move);
    node.addEventListener("lostpointercapture", () => {
      node.removeEventListener("pointermove", move);
      pipecut.hideTip();
    }, { once: true });
  }

  function nearestEdge(place) {
    let low = 0, high = state.edges.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (state.edges[middle] <= place) low = middle;
      else high = middle;
    }
    return place - state.edges[low] < state.edges[high] - place ? low : high;
  }

  function onKey(event, boundary) {
    const at = state.cut[boundary];
    const moves = {
      ArrowLeft: () => at - 1, ArrowDown: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => at + 1,
      PageDown: () => nextLayer(at, -1), PageUp: () => nextLayer(at, 1),
      Home: () => state.planned[boundary],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moveTo(boundary, moves[event.key]());
  }

  function nextLayer(at, step) {
    const { blocks } = state.problem;
    let next = at + step;
    while (next > 0 && next < blocks.length && blocks[next].layer === blocks[next - 1].layer) next += step;
    return next;
  }

  /* Every stage keeps a block. */
  function moveTo(boundary, block) {
    const before = boundary ? state.cut[boundary - 1] : 0;
    const after = state.cut[boundary + 1] ?? state.problem.blocks.length;
    const place = Math.min(after - 1, Math.max(before + 1, block));
    if (place === state.cut[boundary]) return;
    state.cut[boundary] = place;
    price();
  }

  function namesAt(boundary) {
    const { blocks } = state.problem, at = state.cut[boundary];
    return `stage ${boundary} ends with ${blocks[at - 1].name}\nstage ${boundary + 1} begins with ${blocks[at].name}`;
  }

  function price() {
    const priced = pipecut.priceCut(state.problem, state.cut);
    const edges = [0, ...state.cut.map((block) => state.edges[block]), 1];
    state.fills.forEach((fill, stage) => {
      fill.style.setProperty("left", percent(edges[stage], 4));
      fill.style.setProperty("width", percent(edges[stage + 1] - edges[stage], 4));
    });
    state.handles.forEach((node, boundary) => {
      node.style.setProperty("left", percent(edges[boundary + 1], 4));
      node.setAttribute("aria-valuenow", state.cut[boundary]);
      node.setAttribute("aria-valuetext", namesAt(boundary).replace("\n", ", "));
    });
    state.verdict.replaceChildren(...verdict(priced));
    state.rows.replaceChildren(table(priced));
  }

  function verdict(priced) {
    const moved = state.cut.some((block, boundary) => block !== state.planned[boundary]);
    const slowest = `slowest stage ${seconds(priced.bottleneck)} (stage ${priced.slowest})`;
    const before = state.first.bottleneck;
    const ratio = before ? priced.bottleneck / before - 1 : 0;
    if (priced.broken.length) {
      return [element("span", { class: "fair", text: "✕" }),
        `This cut does not hold: ${priced.broken.join("; ")}. Its ${slowest}, ${change(ratio)}.`];
    }
    if (!moved) return [element("span", { class: "good", text: "✓" }), `The plan's cut: ${slowest}.`];
    const compared = Math.abs(ratio) < SAME ? "as the plan's" : `${change(ratio)} against the plan's ${seconds(before)}`;
    return [element("span", { class: ratio > SAME ? "fair" : "good", text: ratio > SAME ? "▲" : "✓" }),
      `With this cut: ${slowest}, ${compared}.`];
  }

  function table(priced) {
    const largest = Math.max(priced.bottleneck, state.first.bottleneck);
    const loads = pipecut.secondsColumn(priced.stages.map((stage) => stage.load));
    const rows = priced.stages.map((stage, index) => ({ ...stage, index, before: state.first.stages[index] }));
    const difference = (row) => {
      const ratio = row.before.load ? row.load / row.before.load - 1 : 0;
      return Math.abs(ratio) < SAME ? "" : change(ratio);
    };
    return pipecut.table([
      { title: "stage", cell: (row) => pipecut.stageMark(row.index) },
      { title: "load", cell: (row) => loadBar(row, largest) },
      { title: loads.unit, number: true, cell: (row) => loads.show(row.load) },
      { title: "change", number: true, cell: difference },
      { title: "memory", number: true, class: "wide", cell: (row) => bytes(row.bytes) },
      { title: "of capacity", number: true, cell: (row) => percent(row.bytes / Math.max(row.capacity, 1)) },
      { title: "", class: "wide", cell: (row) => (row.recompute ? "recomputes" : "") },
    ], rows, { class: "loads", row: (row) => ({ class: row.index === priced.slowest ? "slowest" : null }) });
  }

  /* The load, with a line where the plan's is. */
  function loadBar(row, largest) {
    const bar = pipecut.bar([{ share: row.load / largest, class: "solid" }], `load ${seconds(row.load)}`);
    return element("div", { class: "against" }, bar,
      element("i", { style: { left: percent(row.before.load / largest, 2) } }));
  }

  function candidates(why) {
    if (!why.candidates.length) {
      return section("Candidates", element("p", { class: "muted",
        text: "Nothing was compared: the sizes were given. pipecut compile --explain compares them, "
          + "and says what looser limits would give; sizes that are auto are always compared." }));
    }
    const best = why.candidates.find((row) => row.chosen) || why.candidates[0];
    const step = pipecut.secondsColumn(why.candidates.map((row) => row.step_seconds || 0));
    const number = (title, key) => ({ title, number: true, cell: (row) => row[key] });
    return section("Candidates", pipecut.table([
      number("stages", "stages"), number("replicas", "replicas"), number("microbatch", "microbatch"),
      number("microbatches", "microbatches"), { title: "schedule", cell: (row) => row.schedule },
      { title: `step, ${step.unit}`, number: true,
        cell: (row) => (row.step_seconds === null ? "" : step.show(row.step_seconds)) },
      { title: "bubble", number: true, cell: (row) => (row.bubble === null ? "" : percent(row.bubble)) },
      { title: "what became of it", class: "modules", cell: (row) => outcome(row, best) },
    ], why.candidates, { row: (row) => ({ class: row.chosen ? "chosen" : null }) }));
  }

  function outcome(row, best) {
    if (row.chosen) return row.recomputing ? `chosen; ${row.recomputing} stages recompute` : "chosen";
    if (row.step_seconds === null || !best.step_seconds) return row.why;
    const ratio = row.step_seconds / best.step_seconds - 1;
    if (ratio < 0) return `${percent(-ratio, 1)} faster: no more than its prediction may be off`;
    return `${percent(ratio, 1)} slower`;
  }

  function limits(why) {
    const best = why.candidates.find((row) => row.chosen)?.step_seconds || why.step_seconds;
    return section("What looser limits would give", pipecut.table([
      { title: "limit", cell: (row) => row.limit },
      { title: "step", number: true,
        cell: (row) => (row.step_seconds === null ? "" : seconds(row.step_seconds)) },
      { title: "", cell: (row) => gain(row, best) },
    ], why.limits, { class: "short" }));
  }

  function gain(row, best) {
    if (row.step_seconds === null) return "nothing that fits was found";
    const shorter = 1 - row.step_seconds / best;
    return shorter > 5e-4 ? `${percent(shorter, 1)} shorter` : "no shorter";
  }

  return { title: "Why", render };
})());
