"use strict";
/* Parts that several views draw: tables, bars, stages' marks. */
Object.assign(pipecut, (() => {
  const { element, stageStyle } = pipecut;

  /* A table. A column is {title, cell(row), number, class}; a cell is text or an element. */
  function table(columns, rows, facts = {}) {
    const heads = columns.map((column) =>
      element("th", { scope: "col", class: kindsOf(column), text: column.title }));
    const body = rows.map((row) => element("tr", facts.row?.(row) || {},
      columns.map((column) => cell(column, row))));
    return element("div", { class: "scroll" }, element("table", { class: facts.class },
      element("thead", {}, element("tr", {}, heads)), element("tbody", {}, body)));
  }

  function cell(column, row) {
    const content = column.cell(row);
    const facts = { class: kindsOf(column) };
    if (content instanceof Node) return element("td", facts, content);
    return element("td", { ...facts, text: content });
  }

  function kindsOf(column) {
    return [column.number && "number", column.class].filter(Boolean).join(" ") || null;
  }

  /* What the colours of bars mean: pairs of a class and a word. */
  function legend(meanings) {
    return element("div", { class: "legend" }, meanings.map(([kind, word]) =>
      element("span", {}, element("i", { class: kind }), word)));
  }

  /* A bar of parts {share, class, label} of a whole of 1. */
  function bar(parts, label) {
    return element("div", { class: "meter", role: "img", "aria-label": label, title: label },
      parts.map((part) => element("span", {
        class: part.class, style: { width: `${Math.min(100, Math.max(0, part.share * 100))}%` },
      })));
  }

  /* The number of a stage in its colour. */
  function stageMark(index) {
    return element("span", { class: "mark", style: stageStyle(index), text: index });
  }

  function section(title, ...children) {
    return element("div", { class: "part" }, element("h2", { text: title }), children);
  }

  /* The modules that tell a stage from the others: all of them where none does. */
  function ownModules(plan, stage) {
    const elsewhere = new Set(plan.stages.filter((other) => other !== stage)
      .flatMap((other) => other.modules));
    const own = stage.modules.filter((module) => !elsewhere.has(module));
    return own.length ? own : stage.modules;
  }

  /* Names with commas between them, broken between names alone where there is space. */
  function names(list) {
    return element("span", { class: "names", title: list.length > 3 ? list.join("\n") : null },
      list.flatMap((name, at) =>
        [element("span", { text: at < list.length - 1 ? `${name},` : name }), " "]));
  }

  return { table, bar, names, legend, stageMark, section, ownModules };
})());
