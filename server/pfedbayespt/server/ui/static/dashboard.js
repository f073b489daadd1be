"use strict";
// Everything can be read without this file. It draws the curves, and keeps open what was open while pages renew.
(() => {
  const COLOURS = ["#15803d", "#1d4ed8", "#c2410c", "#7e22ce", "#0e7490", "#be123c", "#4d7c0f", "#57534e"];
  const drawn = new Map();

  const axis = { stroke: "#475569", grid: { stroke: "#e2e8f0" }, ticks: { stroke: "#cbd5e1" }, font: "12px system-ui" };

  function draw(place) {
    const sites = JSON.parse(place.dataset.sites);
    const values = JSON.parse(place.dataset.values);
    const width = Math.max(240, place.clientWidth);
    const plot = new uPlot({
      width,
      height: 240,
      scales: { x: { time: false } },
      axes: [
        { ...axis, label: "version", labelSize: 22, labelFont: "12px system-ui", incrs: [1, 2, 5, 10, 20, 50, 100] },
        { ...axis, size: 56 },
      ],
      series: [
        { label: "version" },
        ...sites.map((site, index) => ({
          label: site,
          stroke: COLOURS[index % COLOURS.length],
          width: 2,
          spanGaps: true,
          dash: index >= COLOURS.length ? [6, 4] : undefined,
          points: { size: 7 },
          value: (_, value) => (value == null ? "–" : value.toFixed(3)),
        })),
      ],
    }, values, place);
    drawn.set(place, plot);
  }

  function drawAll() {
    for (const [place, plot] of drawn) {
      if (!place.isConnected) {
        plot.destroy();
        drawn.delete(place);
      }
    }
    document.querySelectorAll(".plot .canvas").forEach((place) => drawn.has(place) || draw(place));
  }

  let open = [];
  let focused = null;
  document.addEventListener("htmx:beforeSwap", () => {
    open = [...document.querySelectorAll("details[open][id]")].map((details) => details.id);
    focused = document.activeElement && document.activeElement.closest("#content") ? document.activeElement.getAttribute("href") : null;
  });
  document.addEventListener("htmx:afterSwap", () => {
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    if (focused) document.querySelector(`#content a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    drawAll();
  });
  addEventListener("resize", () => drawn.forEach((plot, place) => plot.setSize({ width: Math.max(240, place.clientWidth), height: 240 })));
  drawAll();
})();
