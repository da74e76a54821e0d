// In a sandboxed frame without an origin: shows a version's report, and tells the page above how high it is.
// What stands here may come from anybody who publishes models. The frame's Content-Security-Policy lets it load nothing
// and run nothing; a script that DOMParser read never runs.
"use strict";

addEventListener("message", ({ source, data }) => {
  if (source !== parent) return;
  const report = new DOMParser().parseFromString(String(data), "text/html");
  document.head.append(...report.querySelectorAll("style"));
  document.body.replaceChildren(...report.body.childNodes);
});

new ResizeObserver(() => {
  const { marginTop, marginBottom } = getComputedStyle(document.body);
  const height = document.body.getBoundingClientRect().height + parseFloat(marginTop) + parseFloat(marginBottom);
  parent.postMessage({ height: Math.ceil(height) + 2 }, "*"); // a height is nobody's secret
}).observe(document.body);
parent.postMessage({ ready: true }, "*");
