"use strict";
// What is told of a part of a picture appears beside the mouse, at once; and over the timeline the
// other pieces of the same micro-batch stand out. Without scripts the browser's own hints remain.
{
  const told = document.getElementById("told");
  for (const title of [...document.querySelectorAll("svg title")]) {
    title.parentNode.dataset.told = title.textContent;
    title.remove();
  }
  for (const each of document.querySelectorAll(".track [title]")) {
    each.dataset.told = each.title;
    each.removeAttribute("title");
  }
  const choose = (timeline, batch) => {
    timeline.classList.toggle("same", batch !== undefined);
    for (const piece of timeline.querySelectorAll(".piece")) {
      piece.classList.toggle("chosen", piece.dataset.batch === batch);
    }
  };
  let chosen = null;
  document.addEventListener("mousemove", (event) => {
    const over = event.target.closest?.("[data-told]");
    told.style.visibility = over ? "visible" : "hidden";
    if (over) {
      told.textContent = over.dataset.told;
      const right = event.clientX + 14 + told.offsetWidth < window.innerWidth;
      const below = event.clientY + 14 + told.offsetHeight < window.innerHeight;
      told.style.left = `${event.clientX + (right ? 14 : -10 - told.offsetWidth)}px`;
      told.style.top = `${event.clientY + (below ? 14 : -10 - told.offsetHeight)}px`;
    }
    const piece = over && over.dataset.batch !== undefined ? over : null;
    if (piece !== chosen) {
      if (chosen) choose(chosen.closest("svg"), undefined);
      if (piece) choose(piece.closest("svg"), piece.dataset.batch);
      chosen = piece;
    }
  });
}
