"use strict";
/* Stages: the pipeline as a graph; a stage opens to its layers, operators and code. */
pipecut.view("stages", (() => {
  const { element, svg, seconds, bytes, count, percent, section } = pipecut;
  // From so many stages on, a stage of the graph is drawn small.
  const MANY = 10;
  const page = {};

  function render(root, data) {
    page.data = data;
    page.graph = graph(data);
    page.detail = element("div", { class: "detail" });
    root.append(page.graph, page.detail);
    open(0);
    return { choose: (chosen) => open(Number(chosen)) };
  }

  /* Stages in a row that wraps, with an arrow for each boundary. */
  function graph({ plan, stages }) {
    const slowest = Math.max(...plan.stages.map((stage) => stage.load));
    const parts = plan.stages.flatMap((stage, index) => {
      const boundary = stages.boundaries[index];
      return [card(plan, stage, slowest), boundary ? arrow(boundary) : null];
    });
    const many = plan.stages.length >= MANY ? " many" : "";
    return element("div", {
      class: `graph${many}`, role: "listbox", "aria-label": "Stages", on: { keydown: onKey },
    }, parts.filter(Boolean));
  }

  function card(plan, stage, slowest) {
    const share = stage.peak / Math.max(stage.capacity, 1);
    const replicas = plan.replicas > 1 ? ` × ${plan.replicas}` : "";
    return element("button", {
      type: "button", class: "card", role: "option", id: `stage-${stage.index}`, tabindex: -1,
      style: pipecut.stageStyle(stage.index), on: { click: () => pipecut.go("stages", stage.index) },
    },
    element("span", { class: "head" }, pipecut.stageMark(stage.index),
      element("span", { class: "muted", text: `rank ${stage.rank}${replicas}` })),
    element("span", { class: "modules", title: stage.modules.join("\n") },
      pipecut.names(pipecut.ownModules(plan, stage))),
    meter("time", seconds(stage.forward + stage.backward), [
      { share: stage.forward / slowest, class: "forward" },
      { share: stage.backward / slowest, class: "backward" },
    ]),
    meter("memory", percent(share), [{ share, class: share > 0.95 ? "memory tight" : "memory" }]));
  }

  function meter(name, value, parts) {
    return element("span", { class: "line" }, element("span", { class: "muted", text: name }),
      pipecut.bar(parts, `${name} ${value}`), element("span", { class: "number", text: value }));
  }

  function arrow(boundary) {
    const text = `stage ${boundary.left} to ${boundary.left + 1}: `
      + `${bytes(boundary.forward_bytes)} forward in ${seconds(boundary.forward_seconds)}, `
      + `${bytes(boundary.backward_bytes)} backward in ${seconds(boundary.backward_seconds)}`;
    return element("span", { class: "arrow", title: text, "aria-label": text },
      element("span", { text: bytes(boundary.forward_bytes) }),
      svg("svg", { viewBox: "0 0 40 8", width: 40, height: 8, "aria-hidden": true },
        svg("path", { d: "M0 4H36M32 1L36 4L32 7", fill: "none", stroke: "currentColor" })),
      element("span", { class: "muted", text: boundary.backward_bytes ? "and back" : "forward" }));
  }

  function onKey(event) {
    const last = page.data.plan.stages.length - 1;
    const moves = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -last, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = Math.min(last, Math.max(0, page.opened + moves[event.key]));
    pipecut.go("stages", next);
    document.getElementById(`stage-${next}`).focus();
  }

  function open(index) {
    if (!page.data.plan.stages[index]) return;
    page.opened = index;
    for (const node of page.graph.querySelectorAll(".card")) {
      const chosen = node.id === `stage-${index}`;
      node.setAttribute("aria-selected", chosen);
      node.tabIndex = chosen ? 0 : -1;
    }
    page.detail.replaceChildren(...detail(page.data, index));
  }

  function detail(data, index) {
    const stage = data.plan.stages[index], opened = data.stages.stages[index];
    return [
      element("h2", { class: "opened" }, pipecut.stageMark(index), " ",
        pipecut.names(stage.modules)),
      element("div", { class: "columns" },
        element("div", {}, times(stage, opened, data), memory(stage, opened)),
        crossings(data, index, opened)),
      section("Layers and operators", layers(opened)),
      section(opened.file, code(opened.code)),
    ];
  }

  /* Predicted times, and measured ones beside them where there is a run. */
  function times(stage, opened, data) {
    const after = data.stages.boundaries[stage.index];
    const measured = opened.measured;
    const rows = [
      ["forward", stage.forward, measured?.forward],
      [stage.recompute ? "backward, with a second forward" : "backward", stage.backward,
        measured?.backward],
    ];
    if (after) rows.push(["to the next stage", after.forward_seconds]);
    if (after?.backward_bytes) rows.push(["gradients back", after.backward_seconds]);
    if (opened.reduce) rows.push(["sum over replicas, per step", opened.reduce]);
    if (measured) rows.push(["waits, per step", null, measured.wait], ["sends, per step", null, measured.send]);
    const unit = pipecut.secondsColumn(rows.flatMap((row) => [row[1] || 0, row[2] || 0]));
    const shown = (value) => (value === null || value === undefined ? "" : unit.show(value));
    return section("Time", pipecut.table([
      { title: "per microbatch", cell: ([name]) => name },
      { title: `predicted, ${unit.unit}`, number: true, cell: (row) => shown(row[1]) },
      measured && { title: "measured", number: true, cell: (row) => shown(row[2]) },
    ].filter(Boolean), rows));
  }

  function memory(stage, opened) {
    const rows = [["peak of the rank", stage.peak], ["capacity", stage.capacity],
      ["as the placement counts it", opened.planned_bytes]];
    if (opened.measured?.memory) rows.splice(1, 0, ["measured peak", opened.measured.memory]);
    return section("Memory", pipecut.table([
      { title: `${count(stage.parameters)} parameters on ${stage.device}`, cell: ([name]) => name },
      { title: "", number: true, cell: ([, size]) => bytes(size) },
    ], rows));
  }

  function crossings({ stages }, index, opened) {
    const columns = [
      { title: "tensor", cell: tensorName },
      { title: "shape", cell: (t) => `${t.dtype}[${t.shape.join(", ")}]` },
      { title: "size", number: true, cell: (t) => bytes(t.bytes) },
      { title: "gradient", cell: (t) => (t.needs_grad ? "back" : "none") },
    ];
    const part = (title, boundary, names) => section(title,
      names.length ? element("p", {}, ...names.map((name) => element("code", { text: `${name} ` }))) : null,
      boundary ? pipecut.table(columns, boundary.tensors) : null);
    return element("div", {},
      part("Takes", stages.boundaries[index - 1], opened.batch_inputs),
      part("Gives", stages.boundaries[index], opened.outputs));
  }

  function tensorName(tensor) {
    return element("span", {}, element("code", { text: tensor.name }),
      element("span", { class: "muted", text: tensor.relayed ? " passed on" : "" }));
  }

  /* A row per layer; under it, once asked for, a row per operator. */
  function layers(opened) {
    const all = opened.layers.flatMap((layer) => [layer.forward, layer.backward]);
    const unit = pipecut.secondsColumn(all), body = element("tbody");
    for (const layer of opened.layers) body.append(...layerRows(layer, unit));
    const titles = ["layer", "operators", "parameters", `forward, ${unit.unit}`,
      `backward, ${unit.unit}`, "saved", "source"];
    const heads = titles.map((title, at) => element("th", {
      scope: "col", class: at > 0 && at < 6 && "number", text: title }));
    return element("div", { class: "scroll" }, element("table", { class: "layers" },
      element("thead", {}, element("tr", {}, heads)), body));
  }

  function layerRows(layer, unit) {
    const operators = [];
    const toggle = element("button", { type: "button", class: "toggle", "aria-expanded": "false",
      text: layer.name, on: { click: () => flip() } });
    const row = element("tr", { class: "layer" }, element("td", {}, toggle),
      ...[count(layer.operators.name.length), layer.parameters ? count(layer.parameters) : "",
        unit.show(layer.forward), unit.show(layer.backward), bytes(layer.saved)]
        .map((text) => element("td", { class: "number", text })), element("td"));
    function flip() {
      const opens = toggle.getAttribute("aria-expanded") === "false";
      toggle.setAttribute("aria-expanded", opens);
      if (opens && !operators.length) operators.push(...operatorRows(layer, unit));
      if (opens) row.after(...operators);
      else operators.forEach((operator) => operator.remove());
    }
    return [row];
  }

  function operatorRows({ name, operators }, unit) {
    return operators.name.map((operator, at) => {
      const module = operators.module[at].slice(name.length).replace(/^\./, "");
      return element("tr", { class: "operator" },
        element("td", {}, element("code", { text: operator })),
        element("td", { class: "target", colspan: 2 },
          element("code", { text: operators.target[at].replace(/^aten\./, "").replace(/\.default$/, "") }),
          element("span", { class: "muted", text: module && ` ${module}` })),
        ...[unit.show(operators.forward[at]), unit.show(operators.backward[at]),
          bytes(operators.saved[at])].map((text) => element("td", { class: "number", text })),
        element("td", { class: "source muted", text: operators.source[at] }));
    });
  }

  function code(text) {
    const lines = text.replace(/\n$/, "").split("\n").length;
    const numbers = Array.from({ length: lines }, (_, at) => at + 1).join("\n");
    return element("div", { class: "code", tabindex: 0, role: "region", "aria-label": "code" },
      element("pre", { class: "numbers muted", "aria-hidden": true, text: numbers }),
      element("pre", {}, pipecut.highlight(text)));
  }

  return { title: "Stages", render };
})());
