"use strict";
/* The shell of the page: views and their tabs, themes, elements, the hover text.

   pipecut.view(name, {title, render(root, data)})
     registers a view. `render` fills `root`, once, when the view is first shown; `data` is the whole
     page's data (pipecut/view/data.py says what is in it). What `render` returns may have `draw()`,
     called when the view is shown again, or its width or the theme has changed.
*/
const pipecut = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const THEMES = ["auto", "light", "dark"];
  const views = new Map();
  const state = { shown: null, theme: "auto", data: null };

  /* An element: `facts` are attributes, but `text`, `on` (listeners) and `style` (single properties).
     Text is only ever text: no name of a model can become markup. */
  function element(tag, facts = {}, ...children) {
    return fill(document.createElement(tag), facts, children);
  }

  function svg(tag, facts = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), facts, children);
  }

  function fill(node, facts, children) {
    for (const [key, value] of Object.entries(facts)) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "text") node.textContent = value;
      else if (key === "on") listen(node, value);
      else if (key === "style") setStyle(node, value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }

  function listen(node, listeners) {
    for (const [event, listener] of Object.entries(listeners)) node.addEventListener(event, listener);
  }

  function setStyle(node, properties) {
    for (const [name, value] of Object.entries(properties)) node.style.setProperty(name, value);
  }

  function view(name, definition) {
    views.set(name, { name, ...definition });
  }

  function start(data) {
    state.data = data;
    document.title = data.title;
    document.getElementById("title").textContent = data.title;
    for (const entry of available()) addView(entry);
    addTheme();
    listen(window, { hashchange: followHash, resize: drawShown });
    listen(document, { keydown: onKey });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawShown);
    followHash();
  }

  function available() {
    return [...views.values()].filter((entry) => state.data[entry.name]);
  }

  function addView(entry) {
    entry.tab = element("button", {
      type: "button", role: "tab", id: `tab-${entry.name}`, text: entry.title,
      "aria-controls": `view-${entry.name}`,
      on: { click: () => go(entry.name) },
    });
    entry.root = element("section", {
      role: "tabpanel", id: `view-${entry.name}`, "aria-labelledby": `tab-${entry.name}`,
      hidden: true,
    });
    document.getElementById("tabs").append(entry.tab);
    document.getElementById("views").append(entry.root);
  }

  /* The address after # is a view, and what is chosen in it: #stages/3. */
  function followHash() {
    const [name, chosen] = location.hash.slice(1).split("/");
    show(available().find((entry) => entry.name === name) || available()[0]);
    if (chosen !== undefined && state.shown.drawing?.choose) state.shown.drawing.choose(chosen);
  }

  function go(name, chosen) {
    const target = chosen === undefined ? `#${name}` : `#${name}/${chosen}`;
    if (location.hash === target) followHash();
    else location.hash = target;
  }

  function show(entry) {
    for (const other of available()) {
      other.root.hidden = other !== entry;
      other.tab.setAttribute("aria-selected", other === entry);
      other.tab.tabIndex = other === entry ? 0 : -1;
    }
    hideTip();
    state.shown = entry;
    if (entry.drawing) drawShown();
    else entry.drawing = entry.render(entry.root, state.data) || {};
    entry.tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function drawShown() {
    hideTip();
    state.shown?.drawing?.draw?.();
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") hideTip();
    if (event.target.role === "tab" || event.target.getAttribute?.("role") === "tab") moveTab(event);
    if (/^[1-9]$/.test(event.key) && !event.target.matches?.("input, textarea, select")) {
      const entry = available()[event.key - 1];
      if (entry) go(entry.name);
    }
  }

  function moveTab(event) {
    const entries = available();
    const at = entries.indexOf(state.shown);
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: entries.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = entries[(moves[event.key] + entries.length) % entries.length];
    go(next.name);
    next.tab.focus();
  }

  function addTheme() {
    const button = document.getElementById("theme");
    const say = () => { button.textContent = `Theme: ${state.theme}`; };
    say();
    button.addEventListener("click", () => {
      state.theme = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length];
      document.documentElement.dataset.theme = state.theme;
      say();
      drawShown();
    });
  }

  function isDark() {
    if (state.theme !== "auto") return state.theme === "dark";
    return matchMedia("(prefers-color-scheme: dark)").matches;
  }

  /* A colour of the page's style, for a canvas: pipecut.colour("muted"). */
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  /* The hue of a stage is its own on every view. Neighbours are a golden angle apart. */
  function stageColour(stage) {
    const hue = (250 + stage * 137.508) % 360;
    return isDark() ? `hsl(${hue.toFixed(0)} 42% 60%)` : `hsl(${hue.toFixed(0)} 45% 52%)`;
  }

  /* The same for an element, which then follows the theme by itself. */
  function stageStyle(stage) {
    return { "--hue": ((250 + stage * 137.508) % 360).toFixed(0) };
  }

  /* The text beside the pointer: an element, or a string of lines. */
  function showTip(x, y, content) {
    const tip = document.getElementById("tip");
    tip.replaceChildren(...(typeof content === "string" ? lines(content) : [content]));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(x + 14, innerWidth - width - 8));
    const below = y + 16 + height < innerHeight;
    setStyle(tip, { left: `${left}px`, top: `${below ? y + 16 : Math.max(8, y - height - 10)}px` });
  }

  function lines(text) {
    return text.split("\n").map((line) => element("div", { text: line }));
  }

  function hideTip() {
    document.getElementById("tip").hidden = true;
  }

  return {
    view, start, go, element, svg, isDark, colour, stageColour, stageStyle, showTip, hideTip,
  };
})();
