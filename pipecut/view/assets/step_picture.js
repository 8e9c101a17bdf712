"use strict";
/* The lanes of the timeline on its canvas, with the critical path over them. */
{
  const { percent, shown, xOf } = pipecut;
  const { TICKS, TOP, COLOURS, duration } = pipecut.steps;

  function paint(state, context, size) {
    const colours = palette(state);
    const { scale, left, width } = size;
    pipecut.paintAxis(context, size, TICKS * state.tick);
    context.save();
    clip(context, size);
    context.setTransform(1, 0, 0, 1, 0, 0);
    const ticks = ticksOf(state, size);
    const boxes = {
      left: Math.round(left * scale),
      width: Math.round((width - left) * scale),
      ground: colours.lane,
    };
    const visible = state.rows.filter((row) => onScreen(state, row, size));
    const labels = [];
    for (const row of visible) {
      const box = {
        ...boxes,
        y: Math.round((row.y - state.scrolled) * scale),
        height: Math.max(1, Math.round(row.height * scale)),
      };
      if (!row.thin) {
        context.fillStyle = pipecut.css(colours.lane);
        context.fillRect(box.left, box.y, box.width, box.height);
      }
      const painter = row.difference
        ? (at) => colours.difference(at)
        : (at) => colours.event(row.lanes, at);
      const wide = pipecut.paintLane(context, row.lanes, row.lane, box, ticks, painter);
      if (!row.thin && row.height >= 12) labels.push({ row, wide, box });
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    writeNumbers(state, context, size, labels);
    if (state.critical) paintPath(state, context, size);
    for (const hit of [state.hovered, state.selected]) outline(state, context, size, hit);
    context.restore();
    paintMargin(state, context, size, visible);
  }

  /* Nothing is painted over the margins. */
  function clip(context, size) {
    context.beginPath();
    context.rect(size.left, TOP, size.width - size.left, size.height - TOP);
    context.clip();
  }

  function onScreen(state, row, size) {
    const y = row.y - state.scrolled;
    return y + row.height > TOP && y < size.height;
  }

  function ticksOf(state, size) {
    const span = (shown.to - shown.from) * TICKS;
    return {
      from: shown.from * TICKS,
      perPixel: span / Math.round((size.width - size.left) * size.scale),
    };
  }

  /* Colours as numbers, by kind; those of a rank's later stages are paler. */
  function palette(state) {
    const ground = pipecut.channels("ground");
    const base = state.kinds.map((kind) => pipecut.channels(COLOURS[kind]));
    const pale = base.map((colour) =>
      [0, 0.3, 0.5, 0.62].map((share) => pipecut.mixed(colour, ground, share)),
    );
    const [slower, faster, lane] = ["tight", "good", "hover"].map((name) => pipecut.channels(name));
    const { chunk, twin, predicted, measured } = state;
    return {
      lane,
      event: (lanes, at) => {
        const position = lanes.stage[at] ? chunk[lanes.stage[at] - 1] : 0;
        return pale[lanes.kind[at]][Math.min(3, position)];
      },
      difference: (at) => {
        if (twin[at] < 0) return null;
        const ratio =
          duration(state, measured.computes, at) /
            (duration(state, predicted.computes, twin[at]) || Infinity) -
          1;
        return pipecut.mixed(lane, ratio > 0 ? slower : faster, Math.min(1, Math.abs(ratio) * 2));
      },
    };
  }

  /* The number of its microbatch in every event that has room for it. */
  function writeNumbers(state, context, size, labels) {
    context.font = pipecut.canvasFont;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = pipecut.colour("mark-text");
    for (const { row, wide, box } of labels) {
      for (const [at, x, width] of wide) {
        if (!row.lanes.microbatch[at] || state.kinds[row.lanes.kind[at]] === "WAIT") continue;
        const text = String(row.lanes.microbatch[at] - 1);
        if (width / size.scale < 6 + 7 * text.length) continue;
        context.fillText(
          text,
          (x + width / 2) / size.scale,
          (box.y + box.height / 2) / size.scale + 0.5,
        );
      }
    }
  }

  /* A line under the computes of the path, and from each to the next. */
  function paintPath(state, context, size) {
    const lanes = state.predicted.computes;
    const rows = new Map(
      state.rows.filter((row) => !row.thin && !row.measured).map((row) => [row.lane, row]),
    );
    const y = (lane) => rows.get(lane).y - state.scrolled + rows.get(lane).height - 1.5;
    const x = (tick) => xOf(tick / TICKS, size);
    context.strokeStyle = pipecut.colour("text");
    context.lineWidth = 1;
    const steps = new Path2D();
    const under = new Path2D();
    let reached = 0;
    state.path.forEach(({ at, lane }, position) => {
      const [begin, end] = [x(Math.max(reached, lanes.start[at])), x(lanes.end[at])];
      reached = lanes.end[at];
      const next = state.path[position + 1];
      const after = next ? x(Math.max(reached, lanes.start[next.at])) : end;
      if (after < size.left || begin > size.width) return;
      under.rect(begin, y(lane) - 1, Math.max(1, end - begin), 2.5);
      if (next && next.lane !== lane) {
        steps.moveTo(end, y(lane));
        steps.lineTo(after, y(next.lane));
      }
    });
    context.stroke(steps);
    context.fillStyle = pipecut.colour("text");
    context.fill(under);
  }

  function outline(state, context, size, hit) {
    if (!hit) return;
    const row = rowOf(state, hit);
    if (!row || !onScreen(state, row, size)) return;
    const [begin, end] = [row.lanes.start[hit.at], row.lanes.end[hit.at]].map((tick) =>
      xOf(tick / TICKS, size),
    );
    context.strokeStyle = pipecut.colour(hit === state.selected ? "accent" : "text");
    context.lineWidth = 2;
    context.strokeRect(begin, row.y - state.scrolled + 1, Math.max(2, end - begin), row.height - 2);
  }

  function rowOf(state, hit) {
    return state.rows.find(
      (row) => row.lanes === hit.lanes && row.lane === hit.lane && !row.difference,
    );
  }

  /* Names and bubbles at the left, seconds at the top. */
  function paintMargin(state, context, size, visible) {
    const narrow = size.left < 100;
    context.font = pipecut.canvasFont;
    context.textBaseline = "middle";
    let last = -Infinity;
    for (const row of visible.filter((each) => each.name)) {
      const y = row.y - state.scrolled + row.height / 2;
      if (y - last < 12 || y < TOP + 4) continue;
      last = y;
      context.textAlign = "left";
      context.fillStyle = pipecut.colour(row.measured ? "muted" : "text");
      context.fillText(
        narrow
          ? row.name.replace("ranks ", "").replace("rank ", "").replace("measured", "m")
          : row.name,
        0,
        y,
      );
      context.textAlign = "right";
      context.fillStyle = pipecut.colour("muted");
      context.fillText(percent(row.share, narrow ? 0 : 1), size.left - 8, y);
    }
    paintScrollbar(state, context, size);
    context.textAlign = "right";
    context.fillStyle = pipecut.colour("muted");
    context.fillText("bubble", size.left - 8, TOP / 2);
  }

  /* Which of the lanes are shown, where not all of them fit. */
  function paintScrollbar(state, context, size) {
    const high = size.height - TOP;
    const lanes = state.tall - TOP;
    if (lanes <= high + 1) return;
    context.fillStyle = pipecut.colour("muted");
    context.globalAlpha = 0.7;
    context.fillRect(
      size.width - 4,
      TOP + (high * state.scrolled) / lanes,
      4,
      (high * high) / lanes,
    );
    context.globalAlpha = 1;
  }

  pipecut.stepPicture = { paint, rowOf };
}
