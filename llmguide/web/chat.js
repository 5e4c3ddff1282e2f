// The conversation: ask, watch the answer come, stop it, judge it, go on with a person.
import { $, flowing, make, icon, iconButton, announce, sure } from "./dom.js";
import { blocks } from "./blocks.js";
import { call, listOf, stream, Problem } from "./api.js";
import { here, lengthLine, notice, problemBox, tried } from "./page.js";
import { placeList } from "./sources.js";
import { stepWords, t } from "./words.js";

const now = { conversation: null, stop: null, state: "bot", poll: 0, shown: new Set() };
const POLL = 2000; // milliseconds between two looks for a person's reply

export const current = () => now.conversation;
export const answering = () => now.stop !== null;
export const stopAnswer = () => now.stop?.abort();

// ---- asking

export async function ask(question) {
  if (!question.trim() || answering()) return;
  notice(null);
  $("welcome").hidden = true;
  $("messages").append(questionItem(question));
  const item = answerItem({ author: "assistant" });
  $("messages").append(item.element);
  follow(true);
  await answer(question, item);
}

async function answer(question, item) {
  now.stop = new AbortController();
  busy(true, item);
  try { await receive(question, item, now.stop.signal); }
  catch (problem) { failed(problem, question, item); }
  finally { now.stop = null; busy(false, item); }
}

async function receive(question, item, signal) {
  const body = { user_id: here.user, message: question, conversation: now.conversation ?? undefined, stream: true };
  let done = false;
  for await (const { event, data } of stream("/api/chat", body, signal)) {
    const end = atEnd();
    if (event === "sources") item.sources = data.sources ?? data;
    else if (event === "token") item.add(data.text ?? data.token ?? data);
    else if (event === "error") throw new Problem("broken", { detail: data.error?.message, remedy: data.error?.remedy });
    else if (event === "done") { done = true; finished(data, item); }
    follow(end);
  }
  if (!done) throw new Problem("cut");
}

function finished(reply, item) {
  const changed = now.conversation !== reply.conversation;
  now.conversation = reply.conversation;
  now.shown.add(reply.message_id);
  if (reply.state === "bot" || reply.response) { item.complete(reply); announce(reply.response); }
  else item.element.remove();
  setState(reply.state ?? "bot");
  if (changed) history.replaceState(null, "", `#/chat/${reply.conversation}`);
  document.dispatchEvent(new Event("conversations-changed"));
}

function failed(problem, question, item) {
  if (problem.name === "AbortError") return item.note("stopped");
  if (problem.status === 401) return item.element.remove();
  item.fail(problem, () => { item.clear(); answer(question, item); });
}

function busy(yes, item) {
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  item.element.setAttribute("aria-busy", String(yes));
  if (yes) announce(t("thinking"));
}

// Stay at the end while the answer grows, unless the reader has scrolled up.
function atEnd() { const { scrollHeight, scrollTop, clientHeight } = $("scroll"); return scrollHeight - scrollTop - clientHeight < 40; }
function follow(wanted) { if (wanted) $("scroll").scrollTop = $("scroll").scrollHeight; }

// ---- one message on the page

function questionItem(text) {
  return make("li", { class: "said" }, make("span", { class: "unseen", t: "you" }), make("div", { class: "text", text }));
}

function answerItem({ author }) {
  const text = make("div", { class: "text" });
  const wait = () => { text.classList.add("waiting-dots"); text.replaceChildren(make("span", { class: "quiet", t: "thinking" })); };
  const by = make("div", { class: "by" }, icon(author === "person" ? "person" : "brand"), make("span", { t: author }));
  const element = make("li", { class: author === "person" ? "answer from-person" : "answer" }, by, text);
  const item = { element, sources: [], words: "" };
  item.add = (more) => { item.words += more; text.classList.remove("waiting-dots"); text.textContent = flowing(item.words); };
  item.end = () => { text.classList.remove("waiting-dots"); if (!item.words) text.replaceChildren(); };
  item.clear = () => { item.words = ""; element.replaceChildren(by, text); wait(); };
  item.note = (key) => { item.end(); element.append(make("p", { class: "quiet", t: key })); };
  item.fail = (problem, retry) => { item.end(); element.append(problemBox(problem, retry)); announce(t(problem.kind ?? "broken")); };
  item.complete = (reply) => element.replaceChildren(by, ...answerParts(reply, reply.sources ?? item.sources));
  wait();
  return item;
}

function answerParts(reply, sources) {
  const parts = reply.refused ? [refusal(reply, sources)] : [make("div", { class: "text" }, ...blocks(reply.response))];
  if (reply.certain === false && !reply.refused && sources.length) parts.push(make("p", { class: "doubt", t: "not_certain" }));
  if (reply.confirm) parts.push(confirmCard(reply.confirm));
  if (!reply.refused && sources.length) parts.push(placeList("sources", sources));
  if (reply.trace?.length) parts.push(traceList(reply.trace));
  if (reply.message_id) parts.push(feedbackTools(reply));
  return parts;
}

function refusal(reply, sources) {
  const near = reply.nearest ?? [];
  const box = make("div", { class: "refused" }, make("div", { class: "text", text: reply.response || t("refused") }));
  if (near.length) box.append(placeList("nearest", near));
  box.append(make("div", { class: "actions" }, personButton("primary")));
  return box;
}

function traceList(trace) {
  const steps = trace.map((step) => make("li", typeof step === "string" ? stepWords(step) : { text: JSON.stringify(step) }));
  return make("details", {}, make("summary", { t: "trace" }), make("ol", {}, ...steps));
}

// ---- judging an answer

function feedbackTools(reply) {
  const note = make("span", { class: "note", role: "status" });
  const up = iconButton("up", "helpful", () => judge("up"));
  const down = iconButton("down", "not_helpful", () => { if (down.ariaPressed !== "true") judge("down"); openForm(); });
  const form = feedbackForm((extra) => judge("down", extra).then((sent) => { form.hidden = sent; })); // the newest judgement counts
  const tools = [up, down, copyButton(reply.response, note), reply.refused ? null : personButton("link"), note];
  function openForm() {
    form.hidden = !form.hidden;
    if (!form.hidden) form.querySelector("textarea").focus();
  }
  async function judge(rating, extra = {}) {
    const sent = await tried(() => call("POST", "/api/feedback", { message_id: reply.message_id, rating, ...extra }));
    if (!sent) return false;
    up.ariaPressed = String(rating === "up");
    down.ariaPressed = String(rating === "down");
    if (rating === "up") form.hidden = true;
    note.textContent = t("thanks");
    return true;
  }
  return make("div", {}, make("div", { class: "tools" }, ...tools), form);
}

function feedbackForm(send) {
  const field = (words, name) => {
    const area = make("textarea", { name, rows: 2 });
    return make("label", {}, make("span", { t: words }), area, lengthLine(area, 4000));
  };
  const actions = make("div", { class: "actions" }, make("button", { class: "primary", t: "send_feedback" }));
  const form = make("form", { class: "feedback", hidden: true }, field("what_wrong", "comment"), field("right_answer", "correct"), actions);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const extra = Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim()));
    send(extra);
  });
  return form;
}

function copyButton(text, note) {
  if (!navigator.clipboard) return null;
  return iconButton("copy", "copy", async () => { await navigator.clipboard.writeText(text); note.textContent = t("copied"); });
}

// ---- a tool that changes something asks first

function confirmCard({ id, tool, arguments: values = {}, text }) {
  const rows = Object.entries(values).flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: String(value) })]);
  const yes = make("button", { type: "button", class: "primary", t: "confirm_yes", onclick: () => decide(true) });
  const no = make("button", { type: "button", t: "confirm_no", onclick: () => decide(false) });
  const buttons = make("div", { class: "actions" }, yes, no);
  async function decide(accept) {
    yes.disabled = no.disabled = true; // once: a second click must not order a second laptop
    const sent = await tried(async () => {
      const result = await call("POST", `/api/confirm/${encodeURIComponent(id)}`, { accept });
      now.shown.add(result.message_id);
      buttons.replaceWith(make("p", { role: "status", text: result.response }));
    });
    if (!sent) yes.disabled = no.disabled = false;
  }
  return make("div", { class: "ask", role: "group", label: "confirm_title" },
    make("strong", { t: "confirm_title" }), make("p", { text: text || tool }), make("dl", {}, ...rows), buttons);
}

// ---- a person

function personButton(look) {
  return make("button", { type: "button", class: look, t: "ask_person", onclick: askPerson });
}

async function askPerson() {
  const asked = await tried(() => call("POST", "/api/handoff", { conversation: now.conversation }));
  if (!asked) return;
  now.state = "waiting";
  await look();
}

async function backToBot() { // nobody has come yet: the reader need not wait
  await tried(() => call("POST", `/api/handoff/${encodeURIComponent(now.conversation)}/close`));
  await look();
  $("question").focus();
}

const HANDED = { bot: [], waiting: ["waiting"], person: ["person_has"] };

function setState(state) {
  now.state = state;
  clearTimeout(now.poll);
  $("handoff").hidden = state === "bot";
  const back = () => make("button", { type: "button", class: "link", t: "back_to_bot", onclick: backToBot });
  if (state !== $("view-chat").dataset.state) $("handoff").replaceChildren(...HANDED[state].map((words) => make("span", { t: words })));
  if (state === "waiting" && !$("handoff").querySelector("button")) $("handoff").append(" ", back());
  $("view-chat").dataset.state = state;
  markDelivered(state === "waiting");
  if (state !== "bot") now.poll = setTimeout(look, POLL);
}

// Below what the reader has said since, while nobody has come yet.
function markDelivered(waiting) {
  $("messages").querySelectorAll(".delivered").forEach((mark) => mark.remove());
  let last = $("messages").lastElementChild;
  for (; waiting && last?.matches(".said"); last = last.previousElementSibling) last.append(make("div", { class: "delivered", t: "delivered" }));
}

// While a person has the conversation, what they say is fetched, and so is the end of it.
async function look() {
  const id = now.conversation;
  const found = await call("GET", `/api/conversations/${encodeURIComponent(id)}`).catch(() => null);
  if (id !== now.conversation) return;
  const end = atEnd();
  for (const each of found?.messages ?? []) {
    if (each.role === "user" || now.shown.has(each.id)) continue;
    showMessage(each);
    announce(each.text);
  }
  setState(found?.state ?? now.state);
  follow(end); // last: the line above the composer takes room too
}

const byPerson = (message) => message.role === "person";

// ---- opening and leaving a conversation

export function newConversation() {
  stopAnswer();
  Object.assign(now, { conversation: null, shown: new Set() });
  $("messages").replaceChildren();
  $("welcome").hidden = false;
  setState("bot");
  welcome();
}

export async function openConversation(id) {
  if (id === now.conversation) return;
  newConversation();
  const opened = await tried(async () => {
    const found = await call("GET", `/api/conversations/${encodeURIComponent(id)}`);
    Object.assign(now, { conversation: id });
    found.messages.forEach(showMessage);
    setState(found.state ?? "bot");
  });
  $("welcome").hidden = opened;
  follow(true);
}

function showMessage(message) {
  now.shown.add(message.id);
  if (message.role === "user") return $("messages").append(questionItem(message.text));
  const item = answerItem({ author: byPerson(message) ? "person" : "assistant" });
  $("messages").append(item.element);
  if (byPerson(message)) item.add(message.text);
  else item.complete({ ...message, response: message.text, message_id: message.id });
}

export async function deleteConversation(id, name) {
  if (!(await sure("delete_conversation_sure", "delete", { name }))) return;
  await tried(() => call("DELETE", `/api/conversations/${encodeURIComponent(id)}`));
  if (id === now.conversation) location.hash = "#/chat";
  document.dispatchEvent(new Event("conversations-changed"));
}

async function welcome() {
  const documents = await call("GET", "/api/documents").catch(() => null);
  if (!documents) return;
  const count = listOf(documents, "documents").length;
  const key = count > 1 ? "welcome_some" : count ? "welcome_one" : "welcome_none";
  const add = count ? null : make("a", { href: "#/documents", t: "add_documents" });
  $("welcome-documents").replaceChildren(make("span", { t: key, values: { count } }), " ", add ?? "");
  const known = new Set(listOf(documents, "documents").map((each) => each.source));
  $("examples").replaceChildren(...EXAMPLES.filter((each) => known.has(each.source)).map(exampleItem));
}

// Questions that the sample handbooks answer; each is shown where its document is there.
const EXAMPLES = [
  { source: "en/remote_work.md", text: "How many days a week may office staff work from home?" },
  { source: "en/data_protection.md", text: "Who is the data protection officer?" },
  { source: "zh/remote_work.md", text: "办公室员工每周最多可以在家办公几天？", lang: "zh" },
];

const exampleItem = ({ text, lang = "en" }) => make("li", {}, make("button", { type: "button", class: "plain", lang, text, onclick: () => { ask(text); $("question").focus(); } }));

