"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Tables travel by columns; Vega wants rows.
  const rows = (columns) => {
    const names = Object.keys(columns);
    return names.length ? columns[names[0]].map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]]))) : [];
  };
  const datasets = Object.fromEntries(Object.entries(page.tables).map(([name, columns]) => [name, rows(columns)]));

  const draw = (element, themeName) => vegaEmbed(element, { ...page.specs[element.dataset.spec], datasets }, {
    ast: true, // no eval: the content security policy forbids it
    renderer: page.points > 8000 ? "canvas" : "svg",
    config: page.themes[themeName],
    tooltip: { theme: themeName },
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: element.dataset.spec,
  });
  const drawAll = (themeName) => Promise.all([...document.querySelectorAll(".chart")].map((element) => draw(element, themeName)));
  const current = () => (dark.matches ? "dark" : "light");

  for (const button of document.querySelectorAll("[data-axis]")) {
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll("[data-axis]")) other.setAttribute("aria-pressed", String(other === button));
      const element = document.getElementById("curve");
      element.dataset.spec = button.dataset.axis;
      draw(element, current());
    });
  }

  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  };
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      await copy(page.texts[button.dataset.copy]);
      button.parentElement.querySelector("[role=status]").textContent = "copied";
    });
  }

  dark.addEventListener("change", () => drawAll(current()));
  window.addEventListener("beforeprint", () => drawAll("light"));
  window.addEventListener("afterprint", () => drawAll(current()));
  drawAll(current()).then(() => { document.documentElement.dataset.ready = "true"; });
})();
