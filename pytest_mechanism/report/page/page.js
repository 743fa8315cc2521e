"use strict";
// Filters and sorts the table of claims. Without this script the page shows everything, in the order of the run.
(() => {
  const body = document.querySelector("#table tbody");
  const lines = [...body.rows];
  const search = document.getElementById("search");
  const verdict = document.getElementById("verdict");
  const role = document.getElementById("role");
  const shown = document.getElementById("shown");
  const RED = ["fail", "inconclusive", "error"];
  const texts = lines.map((line) => line.textContent.toLowerCase());
  const order = new Map(lines.map((line, i) => [line, i]));

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    lines.forEach((line, i) => {
      const own = line.dataset.verdict;
      const fits = (!verdict.value || own === verdict.value || (verdict.value === "red" && RED.includes(own)))
        && (!role.value || line.dataset.role === role.value)
        && words.every((word) => texts[i].includes(word));
      if (line.hidden === fits) line.hidden = !fits;
      count += fits;
    });
    shown.textContent = `${count} of ${lines.length} lines`;
  }

  function key(line, column) {
    const text = line.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/^\[/, ""));
    return /^[-+[]?[-+]?[.0-9]/.test(text) && !Number.isNaN(number) ? [0, number] : [text ? 1 : 2, text];
  }

  function sort(head, column) {
    const state = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] || "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    const sign = state === "descending" ? -1 : 1;
    const keys = new Map(lines.map((line) => [line, key(line, column)]));
    const sorted = [...lines].sort((a, b) => {
      const [kindA, x] = keys.get(a);
      const [kindB, y] = keys.get(b);
      if (state === "none") return order.get(a) - order.get(b);
      if (kindA !== kindB) return kindA - kindB;
      const by = typeof x === "number" ? x - y : x.localeCompare(y);
      return by ? sign * by : order.get(a) - order.get(b);
    });
    if (state !== "none") head.setAttribute("aria-sort", state);
    body.append(...sorted);
  }

  [...document.querySelectorAll("#table th:not(.picture)")].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(head, column));
    head.replaceChildren(button);
  });

  function reveal() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.scrollIntoView();
    }
  }

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => { closed.forEach((details) => { details.open = false; }); });
  addEventListener("hashchange", reveal);
  document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", filter);
  verdict.addEventListener("change", filter);
  role.addEventListener("change", filter);
  document.getElementById("filter").hidden = false;
  filter();
  reveal();
})();
