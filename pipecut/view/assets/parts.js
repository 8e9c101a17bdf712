"use strict";
/* Parts that several views draw: tables, bars, stages' marks. */
Object.assign(pipecut, (() => {
  const { element, stageStyle } = pipecut;

  /* A table. A column is {title, cell(row), number}; a cell is text or an element. */
  function table(columns, rows, facts = {}) {
    const heads = columns.map((column) =>
      element("th", { scope: "col", class: column.number && "number", text: column.title }));
    const body = rows.map((row) => element("tr", facts.row?.(row) || {},
      columns.map((column) => cell(column, row))));
    return element("div", { class: "scroll" }, element("table", { class: facts.class },
      element("thead", {}, element("tr", {}, heads)), element("tbody", {}, body)));
  }

  function cell(column, row) {
    const content = column.cell(row);
    const facts = { class: [column.number && "number", column.class].filter(Boolean).join(" ") };
    if (content instanceof Node) return element("td", facts, content);
    return element("td", { ...facts, text: content });
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

  return { table, bar, stageMark, section };
})());
