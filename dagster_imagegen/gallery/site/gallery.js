// What is shown comes from data/manifest.js and the chunks that it names: scripts, because a page
// of file:// may not fetch. Prompts are anybody's text: they become text nodes, and never HTML.
"use strict";

const PAGE_SIZE = 60;
const byId = id => document.getElementById(id);
const state = {manifest: null, chunks: new Map(), entries: [], shown: [], page: 0};

window.gallery = {
  manifest(manifest) {
    state.manifest = manifest;
    document.title = manifest.title;
    byId("title").textContent = manifest.title;
    byId("about").textContent = about(manifest);
    for (const status of manifest.statuses) byId("status").append(element("option", status));
    loadChunks(manifest.chunks.map(chunk => chunk.name).reverse());
  },
  chunk(name, rows) {
    const fields = state.manifest.fields;
    const named = row => Object.fromEntries(fields.map((field, at) => [field, row[at]]));
    state.chunks.set(name, rows.map(named));
  },
};

function about(manifest) {
  const made = `Made ${manifest.made_at.slice(0, 16).replace("T", " ")} UTC`;
  const left = manifest.left_out
    ? `; ${manifest.left_out.toLocaleString()} older requests are left out` : "";
  const hidden = manifest.hidden ? "; prompts and costs are left out" : "";
  return `${made}${left}${hidden}. Costs include all requests for an image.`;
}

function load(path) {
  return new Promise((resolve, reject) => {
    const script = element("script");
    script.src = path;
    script.onload = resolve;
    script.onerror = () => reject(new Error(path));
    document.head.append(script);
  });
}

// The newest chunk comes first, and is shown while the others load.
async function loadChunks(names) {
  for (const name of names) {
    try {
      await load(`data/${name}.js`);
    } catch {
      byId("count").textContent = "A part of the gallery is missing. Load the page again: it may "
        + "have been rebuilt; if that does not help, rebuild it.";
      return;
    }
    state.entries.push(...[...state.chunks.get(name)].reverse());
    const complete = state.chunks.size === names.length;
    if (complete || state.chunks.size <= 2) update(state.page);
    else count();
  }
  update(state.page);
}

// -- filters ------------------------------------------------------------------------------------

function wanted() {
  const value = id => byId(id).value;
  const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
  const [from, to, status] = [value("from"), value("to"), value("status")];
  const [least, most] = [value("cost-from"), value("cost-to")];
  return entry => {
    const day = (entry.at ?? "").slice(0, 10);
    if (status && entry.status !== status) return false;
    if ((from && day < from) || (to && day > to)) return false;
    if ((least || most) && entry.cost === null) return false;
    if ((least && Number(entry.cost) < Number(least))
      || (most && Number(entry.cost) > Number(most))) return false;
    if (!words.length) return true;
    entry.text ??= [entry.prompt, entry.row, entry.asset, entry.partition, entry.model,
      entry.error].filter(each => each !== null).join("\n").toLowerCase();
    // Of a fingerprint its beginning: any two digits are somewhere in it.
    const names = word => word.length > 5 && entry.id.startsWith(word);
    return words.every(word => entry.text.includes(word) || names(word));
  };
}

function update(page = 0) {
  state.shown = state.entries.filter(wanted());
  const order = byId("order").value;
  if (order === "oldest") state.shown.reverse();
  if (order === "costly") state.shown.sort((a, b) => Number(b.cost ?? -1) - Number(a.cost ?? -1));
  const pages = Math.max(1, Math.ceil(state.shown.length / PAGE_SIZE));
  state.page = Math.min(Math.max(page, 0), pages - 1);
  const start = state.page * PAGE_SIZE;
  byId("grid").replaceChildren(...state.shown.slice(start, start + PAGE_SIZE).map(card));
  byId("page").textContent = `Page ${state.page + 1} of ${pages}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page === pages - 1;
  count();
}

function count() {
  const total = state.manifest.entries;
  const loading = state.entries.length < total
    ? ` (loading: ${state.entries.length.toLocaleString()} so far)` : "";
  byId("count").textContent =
    `${state.shown.length.toLocaleString()} of ${total.toLocaleString()}${loading}`;
}

// -- what is shown of one -----------------------------------------------------------------------

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function promptOf(entry, kind) {
  const left = entry.prompt === null;
  return element("p", left ? "prompt not recorded" : entry.prompt,
    left ? `${kind} hidden-prompt` : kind);
}

function money(entry) {
  if (state.manifest.hidden) return "";
  if (entry.cost === null) return "cost unknown";
  const cost = `$${entry.cost}`;
  const most = entry.most !== null && Number(entry.most) > Number(entry.cost)
    ? `, at most $${entry.most}` : "";
  return `${cost}${most}${entry.sandbox ? " (sandbox)" : ""}`;
}

const encoded = path => path.split("/").map(encodeURIComponent).join("/");
const original = entry => state.manifest.root + encoded(entry.path);
const rowName = entry => [entry.row ?? entry.id.slice(0, 12),
  entry.variant ? `variant ${entry.variant}` : "",
  entry.revision ? `revision ${entry.revision}` : ""].filter(Boolean).join(", ");

function image(entry, {small}) {
  const made = element("img");
  made.loading = "lazy";
  made.decoding = "async";
  made.alt = entry.prompt === null ? rowName(entry) : entry.prompt.slice(0, 200);
  made.src = small && entry.thumb ? state.manifest.thumbs + encoded(entry.thumb) : original(entry);
  return made;
}

function link(entry, text) {
  const made = element("a", text);
  made.href = original(entry);
  made.rel = "noopener noreferrer";
  // An SVG that is opened could run scripts with the rights of this address.
  if (entry.format === "svg") made.download = "";
  else made.target = "_blank";
  return made;
}

function card(entry) {
  const item = element("li", undefined, "card");
  const open = element("button", undefined, "open");
  open.type = "button";
  open.append(picture(entry));
  open.addEventListener("click", () => show(entry));
  const last = element("p", undefined, "small last");
  last.append(element("span", money(entry)));
  if (entry.path !== null) last.append(link(entry, "original"));
  const about = element("p", rowName(entry), "small");
  if (entry.status !== "succeeded") about.append(" ", element("span", entry.status, "bad"));
  item.append(open, promptOf(entry, "prompt"), about, last);
  return item;
}

// Without a thumbnail (it could not be made) a large original is not loaded into the grid.
function picture(entry) {
  if (entry.path === null) {
    return element("span", `no image: ${entry.error ?? entry.status}`, "none");
  }
  if (entry.thumb === null && entry.format !== "svg") return element("span", "no preview", "none");
  return image(entry, {small: true});
}

function show(entry) {
  byId("one-title").textContent = [entry.asset, entry.partition, rowName(entry)]
    .filter(each => each !== null).join(" · ");
  const place = byId("picture");
  place.replaceChildren();
  if (entry.path === null) place.append(picture(entry));
  else {
    const around = link(entry);
    around.append(image(entry, {small: false}));
    place.append(around, link(entry, "original"));
  }
  const prompt = promptOf(entry, "");
  prompt.id = "one-prompt";
  byId("one-prompt").replaceWith(prompt);
  byId("facts").replaceChildren(...facts(entry).flatMap(
    ([name, value]) => [element("dt", name), element("dd", String(value))]));
  showVersions(entry);
  const dialog = byId("one");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function facts(entry) {
  const size = entry.width ? `${entry.width} × ${entry.height}, ` : "";
  const bytes = entry.bytes === null ? "" : `${entry.bytes.toLocaleString()} bytes`;
  return [
    ["status", entry.status],
    ["error", entry.error],
    ["requested", entry.at && `${entry.at.slice(0, 19).replace("T", " ")} UTC`],
    ["cost", money(entry)],
    ["requests", entry.requests],
    ["model", entry.model],
    ...Object.entries(entry.parameters ?? {}),
    ["revision", entry.revision],
    ["prompt as revised", entry.revised],
    ["image", entry.path && `${size}${entry.format}, ${bytes}`],
    ["provenance", entry.provenance],
    ["sha256", entry.sha256],
    ["fingerprint", entry.id],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
}

const rowKey = entry => JSON.stringify([entry.asset, entry.partition, entry.row, entry.variant]);

function showVersions(entry) {
  const key = entry.row === null ? null : rowKey(entry);
  const versions = key === null ? [] : state.entries.filter(each => rowKey(each) === key).reverse();
  byId("versions").hidden = versions.length < 2;
  byId("versions-list").replaceChildren(...versions.map(each => {
    const item = element("li");
    if (each === entry) item.setAttribute("aria-current", "true");
    const open = element("button", undefined, "open");
    open.type = "button";
    open.append(picture(each));
    open.addEventListener("click", () => show(each));
    item.append(open, element("p", `revision ${each.revision ?? 0}, ${(each.at ?? "").slice(0, 10)} `
      + money(each)), promptOf(each, "prompt"));
    return item;
  }));
}

// -- controls -----------------------------------------------------------------------------------

byId("filters").addEventListener("input", () => update());
byId("filters").addEventListener("submit", event => event.preventDefault());
byId("filters").addEventListener("reset", () => setTimeout(() => update()));
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));

function turn(by) {
  update(state.page + by);
  scrollTo(0, 0);
}

load("data/manifest.js").catch(() => {
  byId("count").textContent = "data/manifest.js is missing; build the gallery again.";
});
