"use strict";
/* Lanes of events on a canvas: wide events one by one, narrow ones by what they take of a pixel. */
{
  // Device pixels from which on an event is drawn by itself.
  const WIDE = 2.5;
  let strip = null;
  let sums = null;

  /* "#rrggbb" as numbers. */
  function channels(name) {
    const hex = pipecut.colour(name);
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  }

  function mixed(colour, other, share) {
    return colour.map((value, at) => Math.round(value + (other[at] - value) * share));
  }

  function css([red, green, blue]) {
    return `rgb(${red} ${green} ${blue})`;
  }

  /* Paint the events of a lane into a box in device pixels, {left, width, y, height, ground}.

     `ticks` is {from, perPixel}; `colourOf(at)` the colour of an event, or null for none. Returns
     the wide events as [at, x, width]. */
  function paintLane(context, lanes, lane, box, ticks, colourOf) {
    const { from, perPixel } = ticks;
    const to = from + box.width * perPixel;
    const end = lanes.first[lane + 1];
    const wide = [];
    let narrow = false;
    for (
      let at = pipecut.firstFrom(lanes.start, from - lanes.longest[lane], lanes.first[lane], end);
      at < end && lanes.start[at] < to;
      at += 1
    ) {
      const x = (lanes.start[at] - from) / perPixel;
      const wideness = (lanes.end[at] - lanes.start[at]) / perPixel;
      if (x + wideness < 0) continue;
      const colour = colourOf(at);
      if (!colour) continue;
      if (wideness >= WIDE) wide.push([at, x, wideness, colour]);
      else {
        if (!narrow) clearSums(box.width);
        narrow = true;
        addNarrow(x, Math.max(wideness, 0.02), colour, box.width);
      }
    }
    if (narrow) paintNarrow(context, box);
    return paintWide(context, wide, box);
  }

  function clearSums(width) {
    if (!sums || sums.length < width * 4) sums = new Float32Array(width * 4);
    sums.fill(0);
  }

  /* Add what an event takes of each pixel that it touches. */
  function addNarrow(x, width, [red, green, blue], limit) {
    for (let pixel = Math.max(0, Math.floor(x)); pixel < Math.min(limit, x + width); pixel += 1) {
      const share = Math.min(pixel + 1, x + width) - Math.max(pixel, x);
      sums[pixel * 4] += red * share;
      sums[pixel * 4 + 1] += green * share;
      sums[pixel * 4 + 2] += blue * share;
      sums[pixel * 4 + 3] += share;
    }
  }

  function paintNarrow(context, { left, width, y, height, ground }) {
    strip ||= document.createElement("canvas");
    if (strip.width !== width) Object.assign(strip, { width, height: 1 });
    const pencil = strip.getContext("2d");
    const image = pencil.createImageData(width, 1);
    const pixels = image.data;
    for (let at = 0; at < width * 4; at += 4) {
      const idle = Math.max(0, 1 - sums[at + 3]);
      const scale = 1 / Math.max(1, sums[at + 3]);
      for (let channel = 0; channel < 3; channel += 1) {
        pixels[at + channel] = sums[at + channel] * scale + ground[channel] * idle;
      }
      pixels[at + 3] = sums[at + 3] > 0 ? 255 : 0;
    }
    pencil.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(strip, 0, 0, width, 1, left, y, width, height);
  }

  function paintWide(context, wide, { left, width, y, height }) {
    let last = null;
    return wide.map(([at, x, wideness, colour]) => {
      if (colour !== last) context.fillStyle = css(colour);
      last = colour;
      const begin = Math.max(0, Math.round(x));
      // A pixel apart from the next event, where there is room for it.
      const apart = wideness >= 5 ? 1 : 0;
      const drawn = Math.min(width, Math.round(x + wideness)) - begin - apart;
      context.fillRect(left + begin, y, Math.max(1, drawn), height);
      return [at, left + begin, drawn];
    });
  }

  Object.assign(pipecut, { channels, mixed, css, paintLane });
}
