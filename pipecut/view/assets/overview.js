"use strict";
/* Overview: what the plan promises, what is proven of it, its stages, what to mind. */
pipecut.view("overview", (() => {
  const { element, seconds, bytes, count, percent, section } = pipecut;

  function render(root, data) {
    root.append(
      figures(data),
      element("div", { class: "columns" },
        section("What is proven", ...proof(data.overview.proof)),
        section("To mind", remarks(data.overview))),
      section("Stages", strip(data.plan), stages(data.plan), pipecut.legend([
        ["forward", "forward"], ["backward", "backward, with any second forward"],
        ["transfer", "transfers"], ["memory", "memory at the peak"], ["tight", "above 95%"]])),
      section("What it was made for", settings(data.overview)),
    );
  }

  function figures({ plan, overview }) {
    const fullest = plan.stages.reduce((a, b) => (full(b) > full(a) ? b : a));
    const step = overview.measured_step ?? overview.predicted_step;
    const cards = [figure("Predicted step", seconds(overview.predicted_step),
      `${count(overview.samples)} samples, ${plan.microbatches} microbatches of ${plan.microbatch}`)];
    if (overview.measured_step !== null) {
      cards.push(figure("Measured step", seconds(overview.measured_step),
        apart(overview.measured_step / overview.predicted_step - 1)));
    }
    cards.push(
      figure("Bubble", percent(overview.bubble, 1), "of the step, ranks wait"),
      figure("Samples per second", rate(overview.samples / step),
        overview.measured_step === null ? "predicted" : "measured"),
      figure("Slowest stage", seconds(overview.proof.objective), "per microbatch, with transfers"),
      figure("Fullest memory", percent(full(fullest)),
        `${bytes(fullest.peak)} of ${bytes(fullest.capacity)}, stage ${fullest.index}`),
    );
    return element("div", { class: "figures" }, cards);
  }

  function apart(ratio) {
    return `${percent(Math.abs(ratio), 1)} ${ratio < 0 ? "shorter" : "longer"} than predicted`;
  }

  function rate(value) {
    return value >= 100 ? count(Math.round(value)) : value.toPrecision(3);
  }

  function full(stage) {
    return stage.peak / Math.max(stage.capacity, 1);
  }

  function figure(name, value, remark) {
    return element("div", { class: "figure" },
      element("div", { class: "name", text: name }),
      element("div", { class: "value", text: value }),
      element("div", { class: "remark", text: remark }));
  }

  function proof(certificate) {
    const { objective, bound, gap, proven, solver } = certificate;
    const took = `${solver}, ${certificate.seconds.toFixed(1)} s`;
    const verdict = proven
      ? "Proven optimal: no other placement has a faster slowest stage."
      : `Within ${percent(gap, 2)} of a bound that no placement can be below.`;
    return [
      element("p", { class: "verdict" },
        element("span", { class: proven ? "good" : "fair", text: proven ? "✓" : "≈" }), verdict),
      element("div", { class: "bounds" },
        boundRow("slowest stage", objective, objective),
        boundRow("bound", bound, objective)),
      element("p", { class: "muted", text: `Gap ${percent(gap, 2)} (${took}).` }),
    ];
  }

  function boundRow(name, value, largest) {
    return element("div", { class: "bound" },
      element("span", { text: name }),
      pipecut.bar([{ share: value / (largest || 1), class: "solid" }], `${name} ${seconds(value)}`),
      element("span", { class: "number", text: seconds(value) }));
  }

  function remarks({ warnings, notes, tied }) {
    const items = [
      ...warnings.map((text) => ["warning", text]),
      ...tied.map((text) => ["tied", text]),
      ...notes.map((text) => ["note", text]),
    ];
    if (!items.length) return element("p", { class: "muted", text: "Nothing." });
    return element("ul", { class: "remarks" }, items.map(([kind, text]) =>
      element("li", { class: kind }, element("span", { class: "kind", text: kind }),
        element("span", { text }))));
  }

  /* All stages in a row, each as wide as its load. */
  function strip(plan) {
    const slowest = Math.max(...plan.stages.map((stage) => stage.load));
    const share = (stage) => stage.load / (slowest || 1);
    return element("div", { class: "strip" }, plan.stages.map((stage) =>
      element("button", {
        type: "button", class: "stage", "aria-label": `stage ${stage.index}`,
        title: `stage ${stage.index}: ${stage.modules.join(", ")}\n${seconds(stage.load)}`,
        style: { ...pipecut.stageStyle(stage.index), "flex-grow": 100 * share(stage) },
        on: { click: () => pipecut.go("stages", stage.index) },
        text: stage.index,
      })));
  }

  function stages(plan) {
    const slowest = Math.max(...plan.stages.map((stage) => stage.load));
    const time = pipecut.secondsColumn(plan.stages.map((stage) => stage.backward));
    const size = pipecut.bytesColumn(plan.stages.map((stage) => stage.peak));
    const many = new Set(plan.stages.map((stage) => stage.rank)).size < plan.stages.length;
    const columns = [
      { title: "stage", cell: (s) => pipecut.stageMark(s.index) },
      many && { title: "rank", number: true, cell: (s) => s.rank },
      { title: "device", class: "wide", cell: (s) => s.device },
      { title: "modules covered", class: "modules", cell: (s) => pipecut.names(s.modules) },
      { title: "parameters", number: true, class: "wide", cell: (s) => count(s.parameters) },
      { title: `forward, ${time.unit}`, number: true, class: "wide", cell: (s) => time.show(s.forward) },
      { title: `backward, ${time.unit}`, number: true, class: "wide", cell: (s) => time.show(s.backward) },
      { title: "of the slowest", cell: (s) => load(s, slowest) },
      { title: `peak, ${size.unit}`, number: true, class: "wide", cell: (s) => size.show(s.peak) },
      { title: "of capacity", cell: (s) => memory(s) },
    ];
    return pipecut.table(columns.filter(Boolean), plan.stages, { class: "stages" });
  }

  function load(stage, slowest) {
    const transfers = Math.max(0, stage.load - stage.forward - stage.backward);
    const label = `forward ${seconds(stage.forward)}, backward ${seconds(stage.backward)}`
      + `${stage.recompute ? " with recompute" : ""}, transfers ${seconds(transfers)}`;
    return pipecut.bar([
      { share: stage.forward / slowest, class: "forward" },
      { share: stage.backward / slowest, class: "backward" },
      { share: transfers / slowest, class: "transfer" },
    ], label);
  }

  function memory(stage) {
    const share = full(stage);
    const kind = share > 0.95 ? "memory tight" : "memory";
    return element("div", { class: "pair" },
      pipecut.bar([{ share, class: kind }], `${bytes(stage.peak)} of ${bytes(stage.capacity)}`),
      element("span", { class: "number", text: percent(share) }));
  }

  function settings(overview) {
    return element("dl", { class: "settings" }, overview.settings.flatMap(({ name, value }) =>
      [element("dt", { text: name }), element("dd", { text: value })]));
  }

  return { title: "Overview", render };
})());
