// The places an answer rests on, and the panel that opens a document at the quoted passage.
import { $, make } from "./dom.js";
import { blocks } from "./blocks.js";
import { call } from "./api.js";

const phone = matchMedia("(max-width: 50rem)");
let opener = null; // where the keyboard goes back to when the panel closes

const baseName = (source) => String(source).split(/[\\/]/).pop() || String(source);

function place(page, headings) { // "page 3 · Travel › Flights"
  const parts = [];
  if (page) parts.push(make("span", { t: "page", values: { page } }));
  if (headings?.length) parts.push(make("span", { text: headings.join(" › ") }));
  return parts.flatMap((part, index) => (index ? [" · ", part] : [part]));
}

// Several quotations of one section are one place: the card opens at the first.
function bySection(sources) {
  const section = (each) => JSON.stringify([each.source, each.page, each.headings]);
  return [...new Map([...sources].reverse().map((each) => [section(each), each])).values()].reverse();
}

export function placeList(title, sources, openable = true) {
  const items = bySection(sources).map((source, index) => make("li", {}, placeCard(source, index + 1, openable)));
  return make("div", { class: "places" }, make("h3", { t: title }), make("ol", {}, ...items));
}

function placeCard(source, number, openable) {
  const name = baseName(source.source);
  const where = place(source.page, source.headings);
  const words = [make("span", { class: "number", text: String(number) }), make("span", { class: "name", text: name, title: source.source }),
    make("span", { class: "where" }, ...(where.length ? where : [String(source.quote ?? "").slice(0, 120)]))];
  if (source.text) words.push(make("span", { class: "excerpt" }, ...blocks(source.text)));
  if (!openable || !Number.isInteger(source.start)) return make("div", { class: "place" }, ...words);
  return make("button", { type: "button", class: "place", onclick: (event) => openPassage(source, event.currentTarget) }, ...words);
}

export async function openPassage(source, from) {
  opener = from;
  $("panel-title").textContent = baseName(source.source);
  $("panel-place").replaceChildren(...place(source.page, source.headings));
  $("panel-text").replaceChildren("…");
  if (!$("panel").open) { if (phone.matches) $("panel").showModal(); else $("panel").show(); }
  $("panel-title").focus();
  const query = new URLSearchParams({ source: source.source, start: source.start, end: source.end });
  await call("GET", `/api/passage?${query}`).then((passage) => showPassage(passage, source), (problem) => showMissing(problem, source));
}

function showPassage({ text, before, after, page, headings }, { quote }) {
  const quoted = quote && text.includes(quote) ? quote : text, at = text.indexOf(quoted);
  const near = (words) => (words?.trim() ? make("div", { class: "near" }, ...blocks(words.trim())) : null);
  $("panel-place").replaceChildren(...place(page, headings));
  const passage = make("div", {}, ...blocks(text, at, at + quoted.length));
  $("panel-text").replaceChildren(...[near(before), passage, near(after)].filter(Boolean));
  passage.querySelector("mark")?.scrollIntoView({ block: "center" });
}

function showMissing(problem, source) { // the quotation is known even where the document is gone
  const reason = make("p", { class: "problem", t: problem.status === 404 ? "passage_gone" : problem.kind });
  $("panel-text").replaceChildren(reason, ...(source.quote && problem.status !== 404 ? [make("mark", { text: source.quote })] : []));
}

export function closePanel() {
  if ($("panel").open) $("panel").close();
  goBack();
}

function goBack() {
  if (opener?.isConnected) opener.focus();
  opener = null;
}

export function startPanel() {
  $("panel-close").addEventListener("click", closePanel);
  $("panel").addEventListener("close", goBack);
  phone.addEventListener("change", closePanel);
}
