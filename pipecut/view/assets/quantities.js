"use strict";
/* Seconds, bytes and counts as text, as the command line prints them; columns in one unit. */
Object.assign(pipecut, (() => {
  const SECONDS = [["s", 1], ["ms", 1e3], ["µs", 1e6], ["ns", 1e9]];
  const BYTES = ["B", "KiB", "MiB", "GiB", "TiB"];

  function seconds(value) {
    if (!value) return "0 s";
    const [unit, factor] = SECONDS.find(([, scale]) => Math.abs(value) * scale >= 0.9995) || SECONDS[3];
    return `${digits(value * factor)} ${unit}`;
  }

  /* Three digits, or all before the point; 9.999 is 10.0. */
  function digits(value) {
    const whole = Math.abs(value);
    return value.toFixed(whole >= 99.95 ? 0 : whole >= 9.995 ? 1 : 2);
  }

  function bytes(value) {
    let index = 0;
    while (Math.abs(value) >= 1024 && index < BYTES.length - 1) {
      value /= 1024;
      index += 1;
    }
    return index ? `${value.toFixed(1)} ${BYTES[index]}` : `${value} B`;
  }

  function count(value) {
    return value.toLocaleString("en-US");
  }

  function percent(share, places = 0) {
    return `${(share * 100).toFixed(places)}%`;
  }

  /* +4.2%, or what of it a reader sees. */
  function change(ratio) {
    return `${ratio >= 0 ? "+" : "−"}${Math.abs(ratio * 100).toFixed(1)}%`;
  }

  /* {unit, show}: seconds of a column, so that their points stand under each other. */
  function secondsColumn(values) {
    const largest = Math.max(...values.map(Math.abs), 0);
    const [unit, factor] = SECONDS.find(([, scale]) => largest * scale >= 1) || SECONDS[0];
    const places = largest * factor >= 100 ? 1 : largest * factor >= 10 ? 2 : 3;
    return { unit, show: (value) => (value * factor).toFixed(places) };
  }

  function bytesColumn(values) {
    const largest = Math.max(...values.map(Math.abs), 0);
    let index = 0;
    while (largest >= 1024 ** (index + 1) && index < BYTES.length - 1) index += 1;
    return { unit: BYTES[index], show: (value) => (value / 1024 ** index).toFixed(index ? 1 : 0) };
  }

  return { seconds, bytes, count, percent, change, secondsColumn, bytesColumn };
})());
