// Charts in plain SVG: lines over one axis, and a surface over two. An axis is a range of numbers or a list of names.

import { el, name, svg } from "./dom.js";
import * as show from "./show.js";

const LEFT = 58, RIGHT = 14, TOP = 12, BOTTOM = 44;
const COLOURS = 7;

// axis: { label, values, isOrdered, text(value) }; `values` are numbers where it is ordered, else names.
// series: [{ label, values }]; band: [low, high] at each place, or nothing; marker: the place on the axis, a number between 0 and values.length - 1, or null.
export function lineChart({ axis, series, label, range, band = [], marker, pick }) {
  return chart((width) => {
    const height = 280;
    const across = scaleOf(axis, LEFT, width - RIGHT);
    const [low, high] = range ?? reach([...series.flatMap(({ values }) => values), ...band.flat()]);
    const up = (value) => height - BOTTOM - ((height - BOTTOM - TOP) * (value - low)) / (high - low || 1);
    const cursor = svg("g", { class: "cursor" });
    const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label} over ${axis.label}` },
      gridOf(ticks(low, high, 5), up, width), axisOf(axis, across, width, height), titles(label, axis.label, width, height),
      band.length > 0 && (axis.isOrdered ? svg("path", { class: "band s0", d: `${pathOf(band.map(([, top]) => top), across.at, up)}L${pathOf(band.map(([end]) => end).reverse(), (place) => across.at(band.length - 1 - place), up).slice(1)}Z` })
        : band.map(([end, top], at) => svg("line", { class: "band s0", x1: across.at(at), x2: across.at(at), y1: up(end), y2: up(top) }))),
      series.map(({ values }, place) => svg("g", { class: `series s${place % COLOURS}` },
        axis.isOrdered ? svg("path", { d: pathOf(values, across.at, up) })
          : values.map((value, at) => svg("circle", { cx: across.at(at), cy: up(value), r: 4.5 })))),
      marker !== null && svg("line", { class: "marker", x1: across.at(marker), x2: across.at(marker), y1: TOP, y2: height - BOTTOM }),
      cursor);
    function point(at) {
      cursor.replaceChildren(
        svg("line", { x1: across.at(at), x2: across.at(at), y1: TOP, y2: height - BOTTOM }),
        ...series.map(({ values }, place) => svg("circle", { class: `s${place % COLOURS}`, cx: across.at(at), cy: up(values[at]), r: 4 })));
      return [axis.text(axis.values[at]), ...series.map(({ label: of, values }) => `${series.length > 1 ? `${of}: ` : ""}${range ? show.share(values[at]) : show.number(values[at])}`), ...(band[at] ? [`(${show.number(band[at][0])} to ${show.number(band[at][1])})`] : [])].join("   ");
    }
    return { drawing, point, places: [axis.values.length, 1], nearest: (x) => [across.nearest(x), 0], pick: (at) => pick(axis.values[at]), clear: () => cursor.replaceChildren() };
  }, series.length > 1 && legend(series.map(({ label: of }, place) => [`s${place % COLOURS}`, of])));
}

// cells: values[y][x] = { text, colour: a class of the sheet, strength: 0 to 1 }; scale: what explains the colours.
export function surface({ across: xAxis, up: yAxis, cells, label, scale, marker, pick }) {
  return chart((width) => {
    const height = Math.round(Math.min(440, Math.max(260, width * 0.62)));
    const right = isSquare(xAxis, yAxis) ? Math.min(width - RIGHT, LEFT + height - TOP - BOTTOM) : width - RIGHT;
    const across = scaleOf(xAxis, LEFT, right, true);
    const up = scaleOf(yAxis, height - BOTTOM, TOP, true);
    const wide = across.size, high = up.size;
    const cursor = svg("g", { class: "cursor" });
    const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label} over ${xAxis.label} and ${yAxis.label}` },
      svg("g", { class: "cells", "shape-rendering": "crispEdges" }, cells.map((row, y) => row.map(({ colour, strength, fill }, x) => {
        const [left, top] = [Math.round(across.at(x) - wide / 2), Math.round(up.at(y) - high / 2)]; // cells meet, none overlap
        return svg("rect", { class: colour, fill, "fill-opacity": strength.toFixed(3), x: left, y: top, width: Math.round(across.at(x) + wide / 2) - left, height: Math.round(up.at(y) + high / 2) - top });
      }))),
      axisOf(xAxis, across, right + RIGHT, height), sideAxisOf(yAxis, up), titles(yAxis.label, xAxis.label, right + RIGHT, height),
      marker && svg("circle", { class: "marker", cx: across.at(marker[0]), cy: up.at(marker[1]), r: 6 }),
      cursor);
    function point(x, y) {
      cursor.replaceChildren(svg("rect", { x: across.at(x) - wide / 2, y: up.at(y) - high / 2, width: wide, height: high }));
      return `${xAxis.text(xAxis.values[x])}   ${yAxis.text(yAxis.values[y])}   ${cells[y][x].text}`;
    }
    return {
      drawing, point, places: [xAxis.values.length, yAxis.values.length], clear: () => cursor.replaceChildren(),
      nearest: (x, y) => [across.nearest(x), up.nearest(y)], pick: (x, y) => pick(xAxis.values[x], yAxis.values[y]),
    };
  }, scale);
}

// Where both axes span about the same, a circle is drawn as a circle.
function isSquare(...axes) {
  if (!axes.every(({ isOrdered, values }) => isOrdered && values.length > 1)) return false;
  const [wide, high] = axes.map(({ values }) => values.at(-1) - values[0]);
  return wide / high > 0.8 && wide / high < 1.25;
}

// A chart that fills its width, and that one reads by pointer or by arrow keys.
function chart(draw, below) {
  const said = el("output", { class: "reading" }, "");
  const frame = el("div", { class: "plot", tabindex: 0, role: "application", "aria-label": "Chart; arrow keys read it, Enter takes the point over into the row" });
  const element = el("figure", { class: "chart" }, frame, el("figcaption", {}, below || null, said));
  let drawn, at = null;
  function look(place) {
    at = place;
    said.textContent = drawn.point(...at);
  }
  function redraw(width) {
    drawn = draw(Math.max(260, Math.floor(width)));
    frame.replaceChildren(drawn.drawing);
    if (at && at[0] < drawn.places[0] && at[1] < drawn.places[1] && said.textContent) look(at);
  }
  function placeOf(event) {
    const { left, top } = drawn.drawing.getBoundingClientRect();
    return drawn.nearest(event.clientX - left, event.clientY - top);
  }
  frame.addEventListener("pointermove", (event) => look(placeOf(event)));
  frame.addEventListener("pointerleave", () => { drawn.clear(); said.textContent = ""; });
  frame.addEventListener("click", (event) => { look(placeOf(event)); drawn.pick(...at); });
  frame.addEventListener("keydown", (event) => {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [];
    const [across, up] = drawn.places;
    if (x !== undefined) {
      const big = event.shiftKey ? 10 : 1;
      const [fromX, fromY] = at ?? [Math.floor(across / 2), Math.floor(up / 2)];
      look([Math.min(across - 1, Math.max(0, fromX + big * x)), Math.min(up - 1, Math.max(0, fromY + big * y))]);
    } else if (event.key === "Enter" && at) drawn.pick(...at);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(([{ contentRect }]) => { if (contentRect.width) redraw(contentRect.width); }).observe(frame);
  return element;
}

export function legend(entries) {
  return el("ul", { class: "legend" }, entries.map(([colour, text]) => el("li", {}, svg("svg", { width: 12, height: 12, class: colour, "aria-hidden": "true" }, svg("rect", { width: 12, height: 12, rx: 3 })), name(text))));
}

// From light to dark and from blue to yellow alike: viridis, by its stops.
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

export function shade(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mixed = VIRIDIS[low].map((part, colour) => Math.round(part + (place - low) * (VIRIDIS[low + 1][colour] - part)));
  return `rgb(${mixed.join(",")})`;
}

export function shadeScale(low, high, label) {
  const steps = Array.from({ length: 40 }, (_, place) => svg("rect", { x: place * 4, width: 4.3, height: 12, fill: shade(place / 39) }));
  return el("p", { class: "legend" }, name(label), ` ${show.number(low)} `, svg("svg", { width: 160, height: 12, "aria-hidden": "true" }, steps), ` ${show.number(high)}`);
}

function scaleOf(axis, from, to, isCells = false) {
  const count = axis.values.length;
  const inset = isCells || !axis.isOrdered ? (to - from) / count / 2 : 0;
  const step = count > 1 ? (to - from - 2 * inset) / (count - 1) : 0;
  const at = (place) => from + inset + (count > 1 ? step * place : 0);
  return { at, size: Math.abs((to - from) / count), nearest: (x) => Math.min(count - 1, Math.max(0, step ? Math.round((x - from - inset) / step) : 0)) };
}

// Where an axis says what: whole numbers of its own for an ordered one, every name (or some) for the other.
function marks(axis, most) {
  if (!axis.isOrdered) {
    const each = Math.ceil(axis.values.length / most);
    return axis.values.map((value, place) => [place, axis.text(value)]).filter(([place]) => place % each === 0);
  }
  const first = axis.values[0], last = axis.values.at(-1);
  const round = axis.ticks ? axis.ticks(first, last, most) : ticks(first, last, most);
  return round.map((value) => [((value - first) / (last - first || 1)) * (axis.values.length - 1), axis.text(value)]);
}

function axisOf(axis, across, width, height) {
  const room = axis.isOrdered ? 74 : 84;
  const shown = marks(axis, Math.max(2, Math.floor((width - LEFT - RIGHT) / room)));
  const most = Math.floor(((width - LEFT - RIGHT) / Math.max(1, Math.min(axis.isOrdered ? 1 : axis.values.length, Math.floor((width - LEFT) / room)))) / 7);
  return svg("g", { class: "axis" }, svg("line", { x1: LEFT, x2: width - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM }),
    shown.map(([place, text]) => svg("text", { x: across.at(place), y: height - BOTTOM + 16, "text-anchor": "middle" }, short(text, axis.isOrdered ? 20 : most))));
}

function sideAxisOf(axis, up) {
  return svg("g", { class: "axis" }, marks(axis, 6).map(([place, text]) => svg("text", { x: LEFT - 8, y: up.at(place) + 4, "text-anchor": "end" }, short(text, 8))));
}

function gridOf(values, up, width) {
  return svg("g", { class: "grid" }, values.map((value) => [
    svg("line", { x1: LEFT, x2: width - RIGHT, y1: up(value), y2: up(value) }),
    svg("text", { x: LEFT - 8, y: up(value) + 4, "text-anchor": "end" }, show.number(value))]));
}

function titles(up, across, width, height) {
  const middle = (height - BOTTOM + TOP) / 2;
  return svg("g", { class: "titles" },
    svg("text", { x: (LEFT + width - RIGHT) / 2, y: height - 6, "text-anchor": "middle" }, short(across, 60)),
    svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, short(up, 36)));
}

function pathOf(values, at, up) {
  return values.map((value, place) => `${place ? "L" : "M"}${at(place).toFixed(1)} ${up(value).toFixed(1)}`).join("");
}

function reach(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  return [low - margin, high + margin];
}

export function ticks(low, high, most) {
  const rough = (high - low) / Math.max(1, most) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, place) => Number(((first + place) * step).toPrecision(12)));
}

function short(text, most) {
  const shown = String(text);
  return shown.length > most ? `${shown.slice(0, Math.max(1, most - 1))}…` : shown;
}
