// Everything works without this; it adds a button that copies what is shown once, and parts that change by themselves.
"use strict";
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}
for (const part of document.querySelectorAll("[data-events]")) {
  const source = new EventSource(part.dataset.events);
  source.addEventListener("part", (event) => {
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const places = [...part.querySelectorAll("[id]")].map((one) => [one.id, one.scrollTop, one.scrollLeft]);
    part.innerHTML = event.data;
    for (const [id, top, left] of places) document.getElementById(id)?.scrollTo({ top, left });
    if (focused?.id) document.getElementById(focused.id)?.focus();
  });
  source.addEventListener("over", () => {
    source.close();
    if (part.dataset.then) window.location.assign(part.dataset.then);
  });
}
