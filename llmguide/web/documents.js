// Documents: send files, watch them being read, see what can be answered from, take something away.
import { $, make, iconButton, announce, sure } from "./dom.js";
import { call, listOf, upload } from "./api.js";
import { may, problemBox, tried } from "./page.js";
import { t } from "./words.js";

const POLL = 700; // milliseconds between two looks at a job

export async function openDocuments() {
  await tried(async () => {
    const found = await call("GET", "/api/documents");
    showDocuments(listOf(found, "documents"));
  });
}

function showDocuments(documents) {
  $("no-documents").hidden = documents.length > 0;
  $("document-list").replaceChildren(...documents.map(documentRow));
}

function documentRow(each) {
  const whole = each.status === "indexed";
  const detail = make("div", { class: "quiet" }, make("span", { t: "passages", values: { count: each.chunks ?? 0 } }));
  if (each.readers) detail.append(" · ", readers(each.readers));
  if (each.reason) detail.append(` · ${each.reason}`);
  const what = make("div", { class: "what" }, make("div", { class: "name", text: each.source }), detail);
  const status = make("span", { class: whole ? "tag good" : "tag bad", t: each.status.replace(" ", "_") });
  const end = may("editor") ? iconButton("trash", "delete_document", () => remove(each.source), { name: each.source }) : null;
  return make("li", {}, what, status, end);
}

function readers(names) {
  return names.includes("everyone") ? make("span", { t: "everyone" }) : make("span", { t: "readers", values: { names: names.join(", ") } });
}

async function remove(name) {
  if (!(await sure("delete_document_sure", "delete", { name }))) return;
  await tried(() => call("DELETE", `/api/documents?${new URLSearchParams({ source: name })}`, undefined, { limit: 120 }));
  for (const result of $("jobs").querySelectorAll("li[data-source]")) if (result.dataset.source === name) result.remove();
  for (const job of $("jobs").querySelectorAll(".job.ended")) if (!job.querySelector("li")) job.remove();
  await openDocuments();
  $("documents-title").focus();
}

// ---- one upload: sending, waiting, reading, done; each step can be cancelled

async function send(files) {
  if (!files.length) return;
  const card = jobCard(files), form = new FormData();
  for (const file of files) form.append("files", file);
  const chosen = new FormData($("upload")).get("readers");
  if (chosen) form.append("readers", chosen);
  $("jobs").prepend(card.element);
  try { await read(card, form); }
  catch (problem) { card.fail(problem, () => { card.element.remove(); send(files); }); }
  finally { card.end(); openDocuments(); }
}

async function read(card, form) {
  card.say("sending");
  const { job } = await upload("/api/documents", form, card.progress, card.stop.signal);
  card.cancel = () => call("DELETE", `/api/jobs/${encodeURIComponent(job)}`);
  for (;;) {
    const state = await call("GET", `/api/jobs/${encodeURIComponent(job)}`);
    card.show(state);
    if (!["waiting", "running"].includes(state.status)) return;
    await new Promise((next) => setTimeout(next, POLL));
  }
}

function jobCard(files) {
  const names = files.map((file) => file.name).join(", "), count = files.length;
  const name = make("span", count === 1 ? { class: "name", text: names } : { class: "name", t: "files_count", values: { count } });
  const status = make("span", { class: "quiet", role: "status" });
  const bar = make("progress", { max: 1, value: 0, "aria-label": names });
  const results = make("ul"), card = { stop: new AbortController(), cancel: null };
  const cancel = () => (card.cancel ? tried(card.cancel) : card.stop.abort());
  const stop = make("button", { type: "button", class: "link", t: "cancel", onclick: cancel });
  const close = make("button", { type: "button", class: "link", t: "remove", onclick: () => card.element.remove() });
  card.element = make("li", { class: "job" }, make("div", {}, name, status, stop), bar, results);
  card.say = (key, values) => status.replaceChildren(make("span", { t: key, values }));
  card.progress = (share) => { bar.value = share; };
  card.show = (state) => showJob(card, state, bar, results);
  card.fail = (problem, retry) => {
    card.say(problem.name === "AbortError" ? "cancelled" : "read_failed");
    if (problem.name !== "AbortError") results.replaceChildren(make("li", {}, problemBox(problem, retry)));
  };
  card.end = () => { bar.hidden = true; stop.replaceWith(close); card.element.classList.add("ended"); };
  return card;
}

const SAYS = { waiting: "queued", running: "reading", done: "read_done", failed: "read_failed" };

function showJob(card, state, bar, results) {
  const cancelled = state.error === "cancelled";
  card.say(cancelled ? "cancelled" : SAYS[state.status] ?? "read_failed", { done: state.done ?? 0, total: state.total ?? 0 });
  bar.value = state.total ? (state.done ?? 0) / state.total : 0;
  results.replaceChildren(...(state.files ?? []).map(fileResult));
  if (state.error && !cancelled) results.append(make("li", { class: "problem", text: state.error }));
  if (state.status === "done") announce(t("read_done"));
}

const LOOKS = { indexed: { class: "tag good", t: "indexed" }, waiting: { class: "tag", t: "queued" } };

function fileResult({ source, status, reason }) {
  const tag = make("span", LOOKS[status] ?? { class: "tag bad", t: "not_indexed" });
  const words = make("span", status === "indexed" ? { class: "reason", t: "file_ok" } : { class: "reason", text: reason });
  return make("li", { "data-source": source }, make("span", { text: source }), " ", tag, " ", words);
}

export function startDocuments() {
  const drop = $("drop"), input = $("files");
  input.addEventListener("change", () => { send([...input.files]); input.value = ""; });
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, () => drop.classList.add("over"));
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => send([...event.dataTransfer.files]));
  // A file that falls beside the box must not replace the page.
  for (const name of ["dragenter", "dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
}
