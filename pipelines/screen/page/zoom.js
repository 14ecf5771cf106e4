"use strict";
// A part of the timeline that is marked with the mouse is shown over the whole width; a double
// click shows all again. Pieces know their seconds, so they are only moved.
{
  const timeline = document.getElementById("timeline");
  const [left, right, most] = ["left", "right", "most"].map((key) => Number(timeline.dataset[key]));
  const timed = [...timeline.querySelectorAll("[data-start]")];
  const ends = [...timeline.querySelectorAll("[data-at]")];
  const ticks = timeline.querySelector(".ticks");
  const make = (name, attributes, content = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = content;
    return made;
  };

  const place = (each, from, to) => {
    const hidden = to <= from;
    each.style.display = hidden ? "none" : "";
    if (hidden) return;
    const box = each.matches("rect") ? each : each.querySelector("rect");
    const width = to - from - (each.matches(".piece") && to - from > 3 ? 0.6 : 0);
    box.setAttribute("x", from);
    box.setAttribute("width", width);
    each.querySelector("text")?.remove();
    const number = each.dataset.batch;
    if (number === undefined || number.length * 9 * 0.58 >= width) return;
    const baseline = Number(box.getAttribute("y")) + Number(box.getAttribute("height")) / 2 + 3.2;
    each.append(make("text", { x: from + width / 2, y: baseline, class: "middle batch" }, number));
  };

  const rule = (from, to, at) => {
    const rough = (to - from) / 10;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
    const digits = Math.max(0, -Math.floor(Math.log10(step * 1.001)));
    const { top, bottom } = ticks.dataset;
    ticks.replaceChildren();
    for (let number = Math.ceil(from / step - 1e-9); number * step <= to * 1.0001; number += 1) {
      const x = at(number * step);
      ticks.append(make("line", { x1: x, x2: x, y1: top, y2: bottom, class: "grid" }));
      const words = (number * step).toFixed(digits);
      ticks.append(make("text", { x, y: Number(bottom) + 14, class: "middle quiet" }, words));
    }
  };

  const show = (from, to) => {
    const at = (seconds) => left + ((right - left) * (seconds - from)) / (to - from);
    const inside = (seconds) => Math.min(right, Math.max(left, at(seconds)));
    for (const each of timed) place(each, inside(each.dataset.start), inside(each.dataset.stop));
    for (const each of ends) {
      const x = at(each.dataset.at);
      each.style.display = x >= left && x <= right + 0.5 ? "" : "none";
      each.setAttribute("x1", x);
      each.setAttribute("x2", x);
    }
    rule(from, to, at);
    [shown.from, shown.to] = [from, to];
  };

  const shown = { from: 0, to: most };
  const box = timeline.querySelector(".marked");
  const pixel = (event) => {
    const { left: edge, width } = timeline.getBoundingClientRect();
    const x = ((event.clientX - edge) / width) * timeline.viewBox.baseVal.width;
    return Math.min(right, Math.max(left, x));
  };
  const seconds = (x) => shown.from + ((shown.to - shown.from) * (x - left)) / (right - left);
  let start = null;
  timeline.addEventListener("mousedown", (event) => {
    start = pixel(event);
    event.preventDefault();
  });
  document.addEventListener("mousemove", (event) => {
    if (start === null) return;
    box.setAttribute("x", Math.min(start, pixel(event)));
    box.setAttribute("width", Math.abs(pixel(event) - start));
  });
  document.addEventListener("mouseup", (event) => {
    if (start === null) return;
    const [from, to] = [start, pixel(event)].sort((one, other) => one - other);
    start = null;
    box.setAttribute("width", 0);
    if (to - from > 5) show(seconds(from), seconds(to));
  });
  timeline.addEventListener("dblclick", () => show(0, most));
}
