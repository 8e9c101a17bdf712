"use strict";
/* The memory of a rank on a canvas: stacked parts, capacity, the measured peak. */
{
  const { element, bytes, shown } = pipecut;
  const { PARTS, partsOf, total, ceiling, fullestMoments } = pipecut.alive;
  // Pixels above the picture, for the axis.
  const TOP = 24;

  function paint(state, context, size) {
    const rank = state.ranks[state.chosen];
    const top = ceiling(state, rank);
    const y = (value) => size.height - ((size.height - TOP) * value) / top;
    pipecut.paintAxis(context, size, state.ticks * state.tick);
    paintScale(context, size, top, y);
    if (rank.curve) paintParts(state, context, size, rank, y);
    else
      paintText(
        context,
        size,
        "An operator cannot run on fake tensors: only an upper bound is known.",
      );
    line(context, size, y(rank.capacity), `capacity ${bytes(rank.capacity)}`, "tight");
    const measured = Math.max(0, ...rank.measured);
    if (measured)
      line(
        context,
        size,
        y(measured + rank.outside),
        `measured peak ${bytes(measured + rank.outside)}`,
        "accent",
      );
    if (!state.whole && rank.capacity > top) {
      context.fillStyle = pipecut.colour("muted");
      context.textAlign = "left";
      context.fillText(`capacity ${bytes(rank.capacity)}, above`, size.left + 6, TOP + 8);
    }
  }

  function paintText(context, size, text) {
    context.fillStyle = pipecut.colour("muted");
    context.textAlign = "center";
    context.fillText(text, (size.left + size.width) / 2, (TOP + size.height) / 2);
  }

  /* Lines at round bytes. */
  function paintScale(context, size, top, y) {
    const wanted = top / Math.max(2, (size.height - TOP) / 60);
    const unit = 1024 ** Math.max(0, Math.floor(Math.log(wanted) / Math.log(1024)));
    const every =
      unit * [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024].find((step) => step * unit >= wanted);
    context.font = pipecut.canvasFont;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let value = 0; value < top; value += every) {
      context.fillStyle = pipecut.colour("line");
      context.fillRect(size.left, Math.round(y(value)) - 1, size.width - size.left, 1);
      context.fillStyle = pipecut.colour("muted");
      const text = bytes(value).replace(".0", "");
      context.fillText(text, size.left - 8, Math.max(TOP + 6, Math.min(size.height - 6, y(value))));
    }
  }

  /* For each pixel the fullest moment in it, as what it consists of. */
  function paintParts(state, context, size, rank, y) {
    const { scale } = size;
    const count = Math.round((size.width - size.left) * scale);
    const from = shown.from * state.ticks;
    const perPixel = ((shown.to - shown.from) * state.ticks) / count;
    const highest = fullestMoments(state, rank, from, perPixel, count);
    const edges = PARTS.map(([name]) => pipecut.colour(`of-${name}`));
    let begin = 0;
    for (let pixel = 1; pixel <= count; pixel += 1) {
      if (pixel < count && highest[pixel] === highest[begin]) continue;
      if (highest[begin] >= 0) {
        const parts = partsOf(state, rank, highest[begin] >> 1, highest[begin] & 1);
        let below = 0;
        PARTS.forEach(([name], part) => {
          if (!parts[name]) return;
          context.fillStyle = edges[part];
          const [low, high] = [y(below), y(below + parts[name])];
          context.fillRect(size.left + begin / scale, high, (pixel - begin) / scale, low - high);
          below += parts[name];
        });
      }
      begin = pixel;
    }
  }

  function line(context, size, y, text, colour) {
    if (y < TOP) return;
    context.save();
    context.strokeStyle = pipecut.colour(colour);
    context.fillStyle = pipecut.colour(colour);
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(size.left, Math.round(y) + 0.5);
    context.lineTo(size.width, Math.round(y) + 0.5);
    context.stroke();
    context.font = pipecut.canvasFont;
    context.textAlign = "right";
    const wide = context.measureText(text).width;
    const above = y - 9 > TOP ? y - 9 : y + 9;
    context.fillStyle = pipecut.colour("ground");
    context.globalAlpha = 0.8;
    context.fillRect(size.width - wide - 8, above - 7, wide + 8, 14);
    context.globalAlpha = 1;
    context.fillStyle = pipecut.colour(colour);
    context.fillText(text, size.width - 4, above);
    context.restore();
  }

  function smallCurve(state, rank) {
    const canvas = element("canvas", {
      class: "curve",
      role: "img",
      "aria-label": "memory over the step",
    });
    const draw = () => {
      const [width, height] = [150, 22].map((pixels) =>
        Math.round(pixels * (devicePixelRatio || 1)),
      );
      Object.assign(canvas, { width, height });
      if (!rank.curve) return;
      const context = canvas.getContext("2d");
      const top = ceiling(state, rank);
      const moments = fullestMoments(state, rank, 0, state.ticks / width, width);
      context.fillStyle = pipecut.colour("memory");
      moments.forEach((moment, x) => {
        if (moment < 0) return;
        const high = (total(partsOf(state, rank, moment >> 1, moment & 1)) / top) * height;
        context.fillRect(x, height - high, 1, high);
      });
    };
    state.curves.push(draw);
    draw();
    return canvas;
  }

  pipecut.memoryPicture = { TOP, paint, smallCurve };
}
