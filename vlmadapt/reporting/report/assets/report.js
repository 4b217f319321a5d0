"use strict";
// Draws the figures of the page's data block in the colours of its theme, and filters its galleries. Text reaches the
// page by textContent or escaped in the data block; nothing is fetched.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const PAGE = 24; // cards of a gallery before more are asked for
  const galleries = [];
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);

  // "@s1" and "@s1/0.2" of a figure are the style sheet's --s1 as it is now, opaque or not.
  function colour(name) {
    const [key, alpha] = name.slice(1).split("/");
    probe.style.color = `var(--${key})`;
    const found = getComputedStyle(probe).color;
    return alpha ? found.replace("rgb(", "rgba(").replace(")", `, ${alpha})`) : found;
  }

  const COLOURS = ["color", "fillcolor", "colorscale", "colors", "bgcolor", "bordercolor"];
  function coloured(value, key) {
    if (typeof value === "string") return COLOURS.includes(key) && value.startsWith("@") ? colour(value) : value;
    if (Array.isArray(value)) return value.map((each) => coloured(each, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, coloured(each, name)]));
  }

  // Of a matrix: the names of each cell are those of its axes, so that the page does not hold them for every cell.
  function named(trace, layout) {
    if (trace.type !== "heatmap") return trace;
    const [rows, columns] = [layout.yaxis.ticktext, layout.xaxis.ticktext];
    const { said, between } = trace.meta;
    const text = said.map((row, i) => row.map((what, j) => what && `${rows[i]}${between}${columns[j]}: ${what}`));
    return { ...trace, text, hoverongaps: false };
  }

  function styled(figure, width) {
    const { data: plain, layout } = coloured(figure, "");
    const data = plain.map((trace) => named(trace, layout));
    const axis = { gridcolor: colour("@grid"), zerolinecolor: colour("@line"), linecolor: colour("@line") };
    const entries = data.filter((trace) => trace.showlegend !== false).length;
    const below = width < 640;
    const legend = below ? { orientation: "h", y: -0.18, x: 0, yanchor: "top" } : { x: 1.01, y: 1 };
    const shown = layout.showlegend !== false && entries > 1;
    return {
      data,
      layout: {
        ...layout,
        height: layout.height + (shown && below ? 12 * entries : 0),
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("@ink"), family: "system-ui, 'Segoe UI', sans-serif", size: 12 },
        hoverlabel: { bgcolor: colour("@card"), bordercolor: colour("@line"), font: { color: colour("@ink") } },
        margin: { l: 56, r: 12, t: 12, b: 48, ...layout.margin },
        xaxis: { automargin: true, fixedrange: touch, ...axis, ...layout.xaxis },
        yaxis: { automargin: true, fixedrange: touch, ...axis, ...layout.yaxis },
        legend: { ...legend, font: { size: 12 } },
        showlegend: shown,
        dragmode: touch ? false : "zoom",
      },
    };
  }

  const plots = [...document.querySelectorAll(".plot")];
  function draw(plot) {
    const choices = figures[plot.dataset.figure];
    const menu = document.getElementById(`${plot.dataset.figure}-menu`);
    const { data, layout } = styled(choices[menu ? menu.selectedIndex : 0], plot.clientWidth);
    return Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true, showLink: false });
  }
  const drawAll = () => Promise.all(plots.map(draw));
  for (const plot of plots) {
    document.getElementById(`${plot.dataset.figure}-menu`)?.addEventListener("change", () => draw(plot));
  }
  drawAll().then(() => { root.dataset.drawn = "yes"; });

  // The tables are open for those without scripts, and on paper.
  const tables = [...document.querySelectorAll("details.data")];
  for (const each of tables) each.open = false;
  let before = null;
  addEventListener("beforeprint", () => {
    before = { open: tables.map((each) => each.open), theme: root.dataset.theme };
    for (const each of tables) each.open = true;
    for (const each of galleries) each.unfold();
    root.dataset.theme = "light";
    drawAll();
  });
  addEventListener("afterprint", () => {
    tables.forEach((each, i) => { each.open = before.open[i]; });
    for (const each of galleries) each.filter();
    if (before.theme) root.dataset.theme = before.theme; else delete root.dataset.theme;
    drawAll();
  });

  const theme = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : scheme.matches);
  function label() { theme.textContent = isDark() ? "Light" : "Dark"; }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
    drawAll();
  });
  scheme.addEventListener("change", () => { label(); drawAll(); });
  label();
  let narrow = innerWidth < 640;
  addEventListener("resize", () => {
    if (narrow !== innerWidth < 640) { narrow = !narrow; drawAll(); }
  });

  for (const gallery of document.querySelectorAll(".gallery")) {
    const menus = [...gallery.querySelectorAll("select")];
    const search = gallery.querySelector("input");
    const cards = [...gallery.querySelectorAll(".cards > li")];
    const status = gallery.querySelector("[role=status]");
    const texts = cards.map((card) => card.textContent.toLowerCase());
    const facets = cards.map((card) => JSON.parse(card.dataset.facets));
    const more = gallery.querySelector(".more");
    let most = PAGE;
    function filter() {
      const words = search.value.trim().toLowerCase();
      const fits = cards.map((_, i) => texts[i].includes(words)
        && menus.every((menu, j) => menu.value === "" || facets[i][j].includes(Number(menu.value))));
      let shown = 0;
      cards.forEach((card, i) => { card.hidden = !(fits[i] && shown++ < most); });
      more.hidden = shown <= most;
      status.textContent = `${Math.min(shown, most)} of ${shown} shown`
        + (shown < cards.length ? `, ${cards.length - shown} filtered out` : "");
    }
    function anew() {
      most = PAGE;
      filter();
    }
    for (const menu of menus) menu.addEventListener("change", anew);
    search.addEventListener("input", anew);
    gallery.querySelector(".reset").addEventListener("click", () => {
      for (const menu of menus) menu.value = "";
      search.value = "";
      anew();
      search.focus();
    });
    more.addEventListener("click", () => {
      const first = cards.filter((card) => !card.hidden).length;
      most += PAGE;
      filter();
      const next = cards.filter((card) => !card.hidden)[first];
      next.tabIndex = -1;
      next.focus();
    });
    galleries.push({ unfold: () => { for (const card of cards) card.hidden = false; }, filter });
    filter();
  }
})();
