// Everything works without this; it adds a button that copies what is shown once, whole addresses, and parts that
// change by themselves.
"use strict";
for (const one of document.querySelectorAll("[data-address]")) one.textContent = new URL(one.textContent, window.location);
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}
for (const part of document.querySelectorAll("[data-events]")) {
  let source = null;
  const close = () => { source?.close(); source = null; };
  const open = () => {
    if (source) return;
    source = new EventSource(part.dataset.events);
    source.addEventListener("part", (event) => show(part, event.data));
    // Refused (429: too many pages are open), the browser does not come back by itself.
    source.addEventListener("error", (event) => {
      if (event.target.readyState !== EventSource.CLOSED || event.target !== source) return;
      close();
      setTimeout(() => document.hidden || open(), 10000);
    });
    source.addEventListener("over", () => {
      close();
      document.removeEventListener("visibilitychange", change);
      if (part.dataset.then) window.location.assign(part.dataset.then);
    });
  };
  // A browser has few connections to one host: pages that nobody sees leave them to the others.
  const change = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", change);
  change();
}
function show(part, html) {
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  const places = [...part.querySelectorAll("[id]")].map((one) => {
    const isAtEnd = one.scrollTop + one.clientHeight >= one.scrollHeight - 4;
    return [one.id, one.matches(".log") && isAtEnd ? 1e6 : one.scrollTop, one.scrollLeft];
  });
  part.innerHTML = html;
  for (const [id, top, left] of places) document.getElementById(id)?.scrollTo({ top, left });
  if (focused) document.getElementById(focused)?.focus();
}
