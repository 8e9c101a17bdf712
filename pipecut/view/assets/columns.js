"use strict";
/* Columns of numbers as typed arrays, and events in them found by their time. */
{
  const ARRAYS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };

  function unpack({ bytes, data }) {
    const text = atob(data);
    const raw = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at += 1) raw[at] = text.charCodeAt(at);
    const view = new DataView(raw.buffer);
    const numbers = new ARRAYS[bytes](raw.length / bytes);
    const read = { 1: "getUint8", 2: "getUint16", 4: "getUint32" }[bytes];
    for (let at = 0; at < numbers.length; at += 1) numbers[at] = view[read](at * bytes, true);
    return numbers;
  }

  /* Lanes with typed arrays; `longest` has the ticks of each lane's longest event. */
  function unpackLanes(lanes) {
    const arrays = { first: lanes.first };
    for (const name of ["kind", "stage", "microbatch", "start", "end", "critical"]) {
      arrays[name] = unpack(lanes[name]);
    }
    arrays.longest = lanes.first.slice(1).map((end, lane) => {
      let longest = 0;
      for (let at = lanes.first[lane]; at < end; at += 1) {
        longest = Math.max(longest, arrays.end[at] - arrays.start[at]);
      }
      return longest;
    });
    return arrays;
  }

  /* The first event from `low` up to `high` that starts at `tick` or later. */
  function firstFrom(start, tick, low, high) {
    while (low < high) {
      const middle = (low + high) >> 1;
      if (start[middle] < tick) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /* The event of a lane at a tick, or within `slack` ticks of it; -1 where there is none. */
  function eventAt(lanes, lane, tick, slack) {
    const [first, end] = [lanes.first[lane], lanes.first[lane + 1]];
    const last = firstFrom(lanes.start, tick + slack + 1, first, end) - 1;
    let best = -1;
    let distance = slack + 1;
    for (let at = last; at >= first; at -= 1) {
      if (lanes.start[at] + lanes.longest[lane] < tick - slack) break;
      const away = Math.max(lanes.start[at] - tick, tick - lanes.end[at], 0);
      if (away < distance) [best, distance] = [at, away];
    }
    return best;
  }

  Object.assign(pipecut, { unpack, unpackLanes, firstFrom, eventAt });
}
