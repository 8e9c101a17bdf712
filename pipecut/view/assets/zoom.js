"use strict";
/* A canvas over the seconds of a step that is zoomed and dragged; every view shows the same part. */
{
  const { element } = pipecut;
  // The part of the step that is shown, from 0 to 1.
  const shown = { from: 0, to: 1 };
  const SMALLEST = 1e-6;
  const STEP = 1.25;

  function zoomBy(factor, around = (shown.from + shown.to) / 2) {
    const width = Math.min(1, Math.max(SMALLEST, (shown.to - shown.from) * factor));
    const ratio = width / (shown.to - shown.from);
    showFrom(around - (around - shown.from) * ratio, width);
  }

  function panBy(share) {
    const width = shown.to - shown.from;
    showFrom(shown.from + share * width, width);
  }

  function showFrom(from, width) {
    shown.from = Math.min(1 - width, Math.max(0, from));
    shown.to = Math.min(1, shown.from + width);
  }

  /* Bring a part of the step into view, where it is not, with some of what is around it. */
  function reveal(from, to) {
    const width = Math.max(shown.to - shown.from, Math.min(1, (to - from) * 1.5));
    if (from >= shown.from && to <= shown.to) return;
    showFrom((from + to - width) / 2, width);
  }

  /* A canvas that calls `paint(context, size)` for each frame in which something changed.

     `hooks` has `paint`; `left` and `top`, pixels that are no part of the step; `point(x, y)` under
     the pointer or null away from it; `click(x, y)`; `scroll(pixels)` for drags up and down;
     `key(event)`, true for the keys that it takes. */
  function zoomCanvas(label, hooks) {
    const canvas = element("canvas", {
      class: "zoom",
      tabindex: 0,
      role: "application",
      "aria-label": label,
    });
    const state = { canvas, hooks, waiting: false, pointers: new Map(), moved: 0, size: null };
    state.repaint = () => repaint(state);
    canvas.addEventListener("wheel", (event) => onWheel(state, event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => onDown(state, event));
    canvas.addEventListener("pointermove", (event) => onMove(state, event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => onUp(state, event));
    }
    canvas.addEventListener("pointerleave", () => hooks.point(null));
    canvas.addEventListener("keydown", (event) => onKey(state, event));
    return state;
  }

  function repaint(state) {
    if (state.waiting) return;
    state.waiting = true;
    requestAnimationFrame(() => {
      state.waiting = false;
      paintNow(state);
    });
  }

  function paintNow(state) {
    const { canvas, hooks } = state;
    const box = canvas.getBoundingClientRect();
    if (!box.width) return;
    const scale = devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    if (canvas.width !== width || canvas.height !== height)
      Object.assign(canvas, { width, height });
    state.size = {
      width: box.width,
      height: box.height,
      scale,
      left: hooks.left(),
      top: hooks.top,
    };
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, box.width, box.height);
    hooks.paint(context, state.size);
  }

  function xOf(share, size) {
    const wide = size.width - size.left;
    return size.left + ((share - shown.from) / (shown.to - shown.from)) * wide;
  }

  function shareAt(x, size) {
    return shown.from + ((x - size.left) / (size.width - size.left)) * (shown.to - shown.from);
  }

  function onWheel(state, event) {
    if (!state.size) return;
    event.preventDefault();
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      panBy(sideways / (state.size.width - state.size.left));
    } else {
      const pixels = event.deltaY * (event.deltaMode ? 32 : 1);
      zoomBy(
        Math.exp(Math.max(-1, Math.min(1, pixels / 300))),
        shareAt(place(state, event).x, state.size),
      );
    }
    state.repaint();
  }

  function place(state, event) {
    const box = state.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  function onDown(state, event) {
    if (event.button) return;
    state.canvas.focus({ preventScroll: true });
    state.canvas.setPointerCapture(event.pointerId);
    state.pointers.set(event.pointerId, place(state, event));
    state.moved = state.pointers.size > 1 ? Infinity : 0;
  }

  function onMove(state, event) {
    const at = place(state, event);
    const before = state.pointers.get(event.pointerId);
    if (!before) {
      state.hooks.point(at, event);
      return;
    }
    const wide = state.size.width - state.size.left;
    if (state.pointers.size > 1) pinch(state, event.pointerId, at);
    else {
      state.moved += Math.abs(at.x - before.x) + Math.abs(at.y - before.y);
      panBy((before.x - at.x) / wide);
      state.hooks.scroll(before.y - at.y);
    }
    state.pointers.set(event.pointerId, at);
    state.hooks.point(null);
    state.repaint();
  }

  function pinch(state, id, at) {
    const other = [...state.pointers].find(([pointer]) => pointer !== id)[1];
    const apart = (point) => Math.max(8, Math.abs(point.x - other.x));
    zoomBy(apart(state.pointers.get(id)) / apart(at), shareAt((at.x + other.x) / 2, state.size));
  }

  function onUp(state, event) {
    const at = state.pointers.get(event.pointerId);
    state.pointers.delete(event.pointerId);
    if (at && state.moved < 4 && event.type === "pointerup") state.hooks.click(at.x, at.y);
  }

  const KEYS = {
    ArrowLeft: () => panBy(-0.15),
    ArrowRight: () => panBy(0.15),
    "+": () => zoomBy(1 / STEP),
    "=": () => zoomBy(1 / STEP),
    "-": () => zoomBy(STEP),
    0: () => showFrom(0, 1),
    Home: () => showFrom(0, shown.to - shown.from),
    End: () => showFrom(1, shown.to - shown.from),
  };

  function onKey(state, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!state.hooks.key(event)) {
      if (!KEYS[event.key]) return;
      KEYS[event.key]();
    }
    event.preventDefault();
    state.repaint();
  }

  /* Buttons for those who have neither wheel nor keys. */
  function zoomButtons(state) {
    const button = (text, label, act) =>
      element("button", {
        type: "button",
        class: "small",
        text,
        "aria-label": label,
        title: label,
        on: {
          click: () => {
            act();
            state.repaint();
          },
        },
      });
    return element(
      "span",
      { class: "zooms" },
      button("−", "zoom out", () => zoomBy(STEP * STEP)),
      button("+", "zoom in", () => zoomBy(1 / (STEP * STEP))),
      button("Whole step", "show the whole step", () => showFrom(0, 1)),
    );
  }

  /* The axis of seconds at the top, with lines down to the bottom. */
  function paintAxis(context, size, stepSeconds) {
    const per = [1, 2, 5];
    const span = (shown.to - shown.from) * stepSeconds;
    const wanted = span / Math.max(2, (size.width - size.left) / 110);
    const power = 10 ** Math.floor(Math.log10(wanted));
    const every = power * ([...per, 10].find((factor) => power * factor >= wanted) || 10);
    const from = shown.from * stepSeconds;
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let count = Math.ceil(from / every); count * every <= from + span; count += 1) {
      const x = Math.round(xOf((count * every) / stepSeconds, size)) + 0.5;
      context.fillStyle = pipecut.colour("line");
      context.fillRect(x - 0.5, size.top - 4, 1, size.height - size.top + 4);
      context.fillStyle = pipecut.colour("muted");
      const text = tickText(count * every, every);
      const half = context.measureText(text).width / 2;
      context.fillText(
        text,
        Math.min(size.width - half - 1, Math.max(size.left + half, x)),
        size.top / 2,
      );
    }
  }

  /* A time with the digits that neighbouring ticks differ in. */
  function tickText(value, every) {
    const [unit, factor] = [
      ["s", 1],
      ["ms", 1e3],
      ["µs", 1e6],
    ].find(([, scale]) => every * scale >= 0.0999) || ["ns", 1e9];
    const places = Math.max(0, -Math.floor(Math.log10(every * factor) + 1e-9));
    return value ? `${(value * factor).toFixed(places)} ${unit}` : "0";
  }

  const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

  Object.assign(pipecut, {
    shown,
    reveal,
    zoomCanvas,
    zoomButtons,
    paintAxis,
    xOf,
    shareAt,
    canvasFont: FONT,
  });
}
