"use strict";
/* Diff: this plan beside another: what moved, and what that changed. */
pipecut.view("diff", (() => {
  const { element, seconds, bytes, count, percent, change, section } = pipecut;
  // Smaller changes are rounding.
  const SAME = 1e-6;
  const SHOWN = { seconds, bytes, count, share: (value) => percent(value, 1) };

  function render(root, { plan, diff }) {
    root.append(
      element("p", { class: "muted", text: `Beside ${diff.other.model} on ${diff.other.cluster}, `
        + `${diff.other.stages.length} stages, ${diff.other.schedule}: the plan given with --against.` }),
      element("div", { class: "columns" },
        section("What changed", figures(diff.figures)),
        section("Made with", choices(diff.choices))),
      moved(plan, diff),
      stages(plan, diff.other),
    );
  }

  function figures(rows) {
    return pipecut.table([
      { title: "", cell: (row) => row.name },
      { title: "other plan", number: true, cell: (row) => SHOWN[row.unit](row.other) },
      { title: "this plan", number: true, cell: (row) => SHOWN[row.unit](row.this) },
      { title: "change", number: true, cell: difference },
    ], rows);
  }

  function difference(row) {
    const apart = row.other ? row.this / row.other - 1 : row.this;
    if (Math.abs(apart) < SAME) return "";
    if (!row.other || row.unit === "count") return signed(row.this - row.other, SHOWN[row.unit]);
    const kind = row.less_is_better === null ? null : apart < 0 ? "better" : "worse";
    return element("span", { class: kind, text: change(apart) });
  }

  function signed(value, show) {
    return `${value > 0 ? "+" : "−"}${show(Math.abs(value))}`;
  }

  function choices(rows) {
    if (!rows.length) return element("p", { class: "muted", text: "The same model, cluster and sizes." });
    return pipecut.table([
      { title: "", cell: (row) => row.name },
      { title: "other plan", class: "modules", cell: (row) => row.other },
      { title: "this plan", class: "modules", cell: (row) => row.this },
    ], rows);
  }

  function moved(plan, diff) {
    const parts = [];
    if (diff.segments.length) parts.push(strips(diff));
    if (diff.here || diff.there) {
      parts.push(element("p", { class: "muted", text: `${count(diff.here)} operators are only in this `
        + `plan, ${count(diff.there)} only in the other.` }));
    }
    if (diff.moves.length) parts.push(moves(diff.moves));
    else if (diff.segments.length) parts.push(element("p", { text: "No operator is on another stage." }));
    else parts.push(element("p", { text: "The plans have no operator in common." }));
    return section("What moved", ...parts);
  }

  /* The model's operators twice, as wide as they take: on the other plan's stages, and on this one's. */
  function strips(diff) {
    const row = (name, stageOf) => [element("span", { class: "muted", text: name }),
      element("div", { class: "strip" }, merged(diff.segments, stageOf).map((run) =>
        element("span", {
          class: "stage run", style: { ...pipecut.stageStyle(run.stage), "flex-grow": run.share },
          title: `stage ${run.stage}: ${run.first} to ${run.last}, ${seconds(run.seconds)}`,
          text: run.share > 2 ? run.stage : "",
        })))];
    return element("div", { class: "strips" },
      row("other", (segment) => segment.other), row("this", (segment) => segment.this));
  }

  /* Segments in a row that are on one stage, with their share of all seconds in percent. */
  function merged(segments, stageOf) {
    const total = segments.reduce((sum, segment) => sum + segment.seconds, 0) || 1;
    const runs = [];
    for (const segment of segments) {
      const last = runs[runs.length - 1];
      if (last && last.stage === stageOf(segment)) {
        last.seconds += segment.seconds;
        last.last = segment.last;
      } else {
        runs.push({ stage: stageOf(segment), seconds: segment.seconds, first: segment.first, last: segment.last });
      }
    }
    return runs.map((run) => ({ ...run, share: (100 * run.seconds) / total }));
  }

  function moves(rows) {
    const unit = pipecut.secondsColumn(rows.map((row) => row.seconds));
    return pipecut.table([
      { title: "from stage", cell: (row) => pipecut.stageMark(row.other) },
      { title: "to stage", cell: (row) => pipecut.stageMark(row.this) },
      { title: "layers", class: "modules", cell: (row) => layers(row.layers) },
      { title: "operators", number: true, cell: (row) => count(row.operators) },
      { title: `per microbatch, ${unit.unit}`, number: true, cell: (row) => unit.show(row.seconds) },
    ], rows);
  }

  function layers(names) {
    const few = names.length <= 4;
    return pipecut.names(few ? names : [names[0], names[1], `… ${names[names.length - 1]} (${names.length})`]);
  }

  function stages(plan, other) {
    const length = Math.max(plan.stages.length, other.stages.length);
    const rows = Array.from({ length }, (_, index) =>
      ({ index, this: plan.stages[index], other: other.stages[index] }));
    const all = [...plan.stages, ...other.stages];
    const time = pipecut.secondsColumn(all.map((stage) => stage.load));
    const size = pipecut.bytesColumn(all.map((stage) => stage.peak));
    const cell = (key, show) => [
      { title: "other", number: true, cell: (row) => (row.other ? show(row.other[key]) : "") },
      { title: "this", number: true, cell: (row) => (row.this ? show(row.this[key]) : "") },
      { title: "change", number: true, cell: (row) => apart(row, key) },
    ];
    const [otherLoad, thisLoad, loadChange] = cell("load", time.show);
    const [otherPeak, thisPeak, peakChange] = cell("peak", size.show);
    return section("Stages", pipecut.table([
      { title: "stage", cell: (row) => pipecut.stageMark(row.index) },
      { ...otherLoad, title: `load: other, ${time.unit}` }, { ...thisLoad, title: "this" }, loadChange,
      { ...otherPeak, title: `peak: other, ${size.unit}` }, { ...thisPeak, title: "this" }, peakChange,
    ], rows));
  }

  function apart(row, key) {
    if (!row.this || !row.other || !row.other[key]) return "";
    const ratio = row.this[key] / row.other[key] - 1;
    return Math.abs(ratio) < SAME ? "" : change(ratio);
  }

  return { title: "Diff", render };
})());
