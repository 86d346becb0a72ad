"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const parsed = (id) => JSON.parse(byId(id).textContent);

  // Curves: read values at a radius, show and hide.
  const chart = parsed("curve-data");
  const slider = byId("radius");
  const fixed = (value) => value.toFixed(3);
  // Rounded down and up at three decimals; the numbers have four, and a tiny one shows them.
  const down = (value) =>
    value > 0 && value < 1e-3 ? value.toFixed(4) : fixed(Math.floor(Math.round(value * 1e4) / 10) / 1e3);
  const up = (value) => fixed(Math.ceil(Math.round(value * 1e4) / 10) / 1e3);

  function readCurves() {
    const radius = Number(slider.value);
    const text = radius.toFixed(chart.decimals);
    byId("radius-value").textContent = text;
    for (const label of document.querySelectorAll(".at")) label.textContent = `at ${text}`;
    const x = chart.left + ((chart.right - chart.left) * radius) / chart.largest;
    byId("cursor").setAttribute("transform", `translate(${x - chart.left} 0)`);
    chart.curves.forEach((curve, i) => {
      // Beyond the last step, whose value is 0, the values are those of the last step.
      const found = curve.radius.findIndex((step) => step >= radius - 1e-9);
      const at = found < 0 ? curve.radius.length - 1 : found;
      document.querySelector(`[data-value="${i}"]`).textContent = down(curve.value[at]);
      document.querySelector(`[data-interval="${i}"]`).textContent = `${down(curve.low[at])} to ${up(curve.high[at])}`;
    });
  }
  slider.addEventListener("input", readCurves);
  readCurves();
  for (const box of document.querySelectorAll(".legend input")) {
    box.addEventListener("change", () => {
      for (const part of document.querySelectorAll(`.series[data-series="${box.dataset.series}"]`))
        part.classList.toggle("off", !box.checked);
    });
  }

  // Images: choose a log, filter, sort, turn pages.
  const data = parsed("image-data");
  const PAGE = 25;
  const className = (k) => data.classes[k] ?? String(k);
  const number = (text) => (text === "" ? -Infinity : Number(text));
  const state = { rows: [], shown: [], key: "idx", ascending: true, page: 0 };

  function rowsOf(log) {
    return log.idx.map((idx, i) => {
      const votes = log.votes[i]
        ? log.votes[i].split(",").map((part) => part.split(":").map(Number)).sort((a, b) => b[1] - a[1])
        : [];
      const label = log.label[i];
      const predict = log.predict[i];
      const answer = predict < 0 ? "abstains" : className(predict);
      return {
        idx, label, predict, answer, votes,
        n: log.n[i],
        share: votes.length && log.n[i] ? votes[0][1] / log.n[i] : -Infinity,
        radius: Number(log.radius[i]), radiusText: log.radius[i],
        axis: number(log.axis[i]), axisText: log.axis[i], p: log.p[i],
        outcome: predict < 0 ? "abstained" : predict === label ? "correct" : "wrong",
        reason: log.reason[i],
        kind: log.kinds[log.kind[i]],
      };
    });
  }

  function sentence(row) {
    if (row.predict < 0) return data.abstained.replaceAll("{reason}", () => row.reason.replace(/\.$/, "") || "no reason given");
    const template = row.radius > 0 ? row.kind.sentence : data.uncertified;
    const radius = row.radiusText.slice(0, -1);
    return template.replace(/\{(answer|radius)\}/g, (_, name) => (name === "answer" ? row.answer : radius));
  }

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function measure(text, share, kind = "", ...beside) {
    const fill = element("span", { className: "fill" });
    fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    const track = element("span", { className: "track" }, fill);
    track.setAttribute("aria-hidden", "true");
    return element("td", { className: `measure ${kind}` }, text, ...beside, track);
  }

  const percent = (share) => `${(Math.floor(share * 1000 + 1e-9) / 10).toFixed(1)} %`;
  const hasThumbnails = Boolean(document.querySelector("#image-table th.thumb"));
  let largest = 1;

  function draw(row, position) {
    const cells = [];
    if (hasThumbnails) {
      const source = data.thumbnails[row.idx];
      const cell = element("td", { className: "thumb" });
      if (source) cell.append(element("img", { src: source, alt: `Image ${row.idx}` }));
      cells.push(cell);
    }
    const number = element("th", { className: "number", scope: "row" }, String(row.idx));
    const answer = element("td", {}, row.predict < 0 ? "" : row.answer);
    const mark = { correct: "✓ correct", wrong: "✗ wrong", abstained: "– abstained" }[row.outcome];
    answer.append(element("span", { className: `outcome ${row.outcome}` }, mark));
    const vote = row.votes.length && row.n ? `${className(row.votes[0][0])}: ${percent(row.share)}` : "";
    const chip = () => (row.radius > 0 ? element("span", { className: `chip g-${row.kind.guarantee}` }, row.kind.guarantee) : "");
    // Where there is no room for a column of guarantees they stand beside the radius.
    const small = element("span", { className: "small" }, " ", chip());
    const detail = `detail-${position}`;
    const button = element("button", { type: "button" }, "+");
    button.setAttribute("aria-label", `What is certified about image ${row.idx}`);
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", detail);
    cells.push(
      number,
      element("td", {}, className(row.label)),
      answer,
      measure(row.radiusText.slice(0, -1), row.radius / largest, "", small),
      element("td", { className: "number optional" }, row.axisText.slice(0, -1)),
      vote ? measure(vote, row.share, "optional") : element("td", { className: "optional" }),
      element("td", { className: "optional" }, chip()),
      element("td", { className: "detail" }, button),
    );
    const more = element("tr", { className: "more", id: detail, hidden: true });
    const facts = [
      row.votes.length ? `Votes of ${row.n}: ${row.votes.map(([k, count]) => `${className(k)}: ${count}`).join(", ")}.` : "",
      row.p ? `Certified share: ${row.p}.` : "",
      row.kind.certificate ? `Certificate: ${row.kind.certificate}.` : "",
    ];
    const cell = element("td", { colSpan: cells.length }, element("p", {}, sentence(row)));
    cell.append(element("p", { className: "quiet" }, facts.filter(Boolean).join(" ")));
    more.append(cell);
    button.addEventListener("click", () => {
      more.hidden = !more.hidden;
      button.setAttribute("aria-expanded", String(!more.hidden));
      button.textContent = more.hidden ? "+" : "–";
    });
    return [element("tr", {}, ...cells), more];
  }

  function show() {
    const pages = Math.max(1, Math.ceil(state.shown.length / PAGE));
    state.page = Math.max(0, Math.min(state.page, pages - 1));
    const start = state.page * PAGE;
    const part = state.shown.slice(start, start + PAGE);
    byId("image-rows").replaceChildren(...part.flatMap((row, i) => draw(row, i)));
    for (const head of document.querySelectorAll("#image-table [data-key]")) {
      if (head.dataset.key === state.key) head.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    const of = `${state.shown.length} of ${state.rows.length} images`;
    byId("status").textContent = state.shown.length ? `${of}; shown: ${start + 1} to ${start + part.length}` : `${of}: none matches`;
    byId("place").textContent = `Page ${state.page + 1} of ${pages}`;
    byId("image-caption").textContent = described();
    // Not `disabled`, which would take the focus away from who turns pages with the keyboard.
    byId("previous").setAttribute("aria-disabled", String(state.page === 0));
    byId("next").setAttribute("aria-disabled", String(state.page >= pages - 1));
  }

  // The log and the filters in words: on paper the controls are not there.
  function described() {
    const chosen = (id) => byId(id).selectedOptions[0].textContent;
    const wanted = byId("find").value.trim();
    return [
      `Images of ${chosen("log")}`,
      byId("outcome").value && `outcome ${chosen("outcome")}`,
      byId("class").value && `true class ${chosen("class")}`,
      Number(byId("least").value) > 0 && `radius at least ${byId("least").value}`,
      wanted && `found by "${wanted}"`,
    ].filter(Boolean).join("; ");
  }

  function turn(event, by) {
    if (event.currentTarget.getAttribute("aria-disabled") === "true") return;
    state.page += by;
    show();
  }

  function filter() {
    const outcome = byId("outcome").value;
    const label = byId("class").value;
    const least = Number(byId("least").value) || 0;
    const wanted = byId("find").value.trim().toLowerCase();
    const matches = (row) =>
      (!outcome || row.outcome === outcome) &&
      (label === "" || row.label === Number(label)) &&
      row.radius >= least &&
      (!wanted || String(row.idx) === wanted || className(row.label).toLowerCase().includes(wanted) || row.answer.toLowerCase().includes(wanted));
    const sign = state.ascending ? 1 : -1;
    const key = state.key;
    state.shown = state.rows
      .filter(matches)
      .sort((a, b) => (a[key] === b[key] ? a.idx - b.idx : a[key] < b[key] ? -sign : sign));
    state.page = 0;
    show();
  }

  function choose() {
    state.rows = rowsOf(data.logs[Number(byId("log").value)]);
    filter();
  }

  data.logs.forEach((log, i) => byId("log").append(element("option", { value: String(i) }, log.name)));
  largest = Math.max(1e-9, ...data.logs.map((log) => log.radius.reduce((most, text) => Math.max(most, Number(text)), 0)));
  const labels = new Set(data.logs.flatMap((log) => log.label));
  for (const label of [...labels].sort((a, b) => a - b))
    byId("class").append(element("option", { value: String(label) }, className(label)));
  for (const head of document.querySelectorAll("#image-table [data-key]")) {
    head.querySelector("button").addEventListener("click", () => {
      const key = head.dataset.key;
      // Numbers that one looks for the largest of begin with it.
      state.ascending = state.key === key ? !state.ascending : !["radius", "axis", "share"].includes(key);
      state.key = key;
      filter();
    });
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("log").addEventListener("change", choose);
  for (const id of ["outcome", "class", "least", "find"]) byId(id).addEventListener("input", filter);
  byId("previous").addEventListener("click", (event) => turn(event, -1));
  byId("next").addEventListener("click", (event) => turn(event, 1));
  choose();
})();
