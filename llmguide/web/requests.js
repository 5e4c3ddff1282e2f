// For people who answer people: who waits, take a conversation over, reply, hand it back.
import { $, make } from "./dom.js";
import { call, listOf } from "./api.js";
import { here, lengthLine, may, tried } from "./page.js";
import { placeList } from "./sources.js";

const POLL = 2000; // milliseconds between two looks at the list
const now = { open: null, timer: 0 };

export async function openRequests() {
  clearTimeout(now.timer);
  await tried(refresh);
}

export function leaveRequests() { clearTimeout(now.timer); }

async function refresh() {
  const found = await call("GET", "/api/handoffs");
  const requests = listOf(found, "handoffs");
  showCount(requests);
  $("no-requests").hidden = requests.length > 0;
  const focused = document.activeElement?.dataset.request; // the list is made anew: the keyboard stays where it was
  $("request-list").replaceChildren(...requests.map(requestRow));
  if (focused) $("request-list").querySelector(`[data-request="${CSS.escape(focused)}"]`)?.focus();
  if (now.open) await showTalk();
  clearTimeout(now.timer);
  now.timer = setTimeout(() => { if (!$("view-requests").hidden) refresh().catch(() => openRequests()); }, POLL);
}

export async function countRequests() {
  if (!may("agent")) return;
  const found = await call("GET", "/api/handoffs").catch(() => []);
  showCount(listOf(found, "handoffs"));
}

function showCount(requests) {
  const waiting = requests.filter((each) => each.state === "waiting").length;
  $("waiting-count").hidden = waiting === 0;
  $("waiting-count").textContent = String(waiting);
}

function requestRow(each) {
  const { conversation, agent } = each, waits = each.state === "waiting";
  const state = waits ? { class: "tag bad", t: "state_waiting" } : { class: "tag good", t: "taken_by", values: { name: agent } };
  const reason = make("span", { t: `reason_${each.reason ?? "asked"}` });
  const detail = make("div", { class: "quiet" }, reason, " · ", make("span", { time: each.time }));
  const what = make("div", { class: "what" }, make("div", { class: "name", text: each.user }), detail);
  const button = (look, words, onclick) => make("button", { type: "button", class: look, t: words, "data-request": conversation, onclick });
  const mine = agent === here.user ? button("", "open_request", () => openTalk(conversation)) : null;
  const act = waits ? button("primary", "take", () => take(conversation)) : mine;
  return make("li", {}, what, make("span", state), make("div", { class: "actions" }, act));
}

const path = (conversation, verb) => `/api/handoff/${encodeURIComponent(conversation)}/${verb}`;

async function take(conversation) {
  if (await tried(() => call("POST", path(conversation, "take")))) await openTalk(conversation);
  else await openRequests();
}

async function openTalk(conversation) {
  now.open = conversation;
  $("request").replaceChildren(make("div", { class: "talk", tabindex: 0, role: "log", label: "chat" }), replyForm(conversation));
  await tried(refresh);
  $("request").querySelector("textarea")?.focus();
}

async function showTalk() {
  const found = await call("GET", `/api/conversations/${encodeURIComponent(now.open)}`);
  const talk = $("request").querySelector(".talk"), before = talk.childElementCount;
  if (found.messages.length === before) return;
  talk.replaceChildren(...found.messages.map(line));
  talk.scrollTop = talk.scrollHeight;
}

function line(message) {
  const author = { user: "user", person: "you" }[message.role] ?? "assistant";
  const sources = message.sources?.length ? placeList("sources", message.sources) : null;
  const by = make("div", { class: "by" }, make("span", { t: author }));
  return make("div", {}, by, make("div", { class: "text", text: message.text }), sources);
}

function replyForm(conversation) {
  const field = make("textarea", { id: "reply", rows: 2, required: true });
  const end = make("button", { type: "button", t: "hand_back", onclick: () => close(conversation) });
  const actions = make("div", { class: "actions" }, make("button", { class: "primary", t: "reply" }), end);
  const form = make("form", {}, make("label", { for: "reply", t: "your_reply" }), field, lengthLine(field, 8000), actions);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const message = field.value.trim();
    if (message && (await tried(() => call("POST", path(conversation, "reply"), { message })))) { field.value = ""; await tried(refresh); }
  });
  return form;
}

async function close(conversation) {
  if (!(await tried(() => call("POST", path(conversation, "close"))))) return;
  now.open = null;
  $("request").replaceChildren(make("p", { class: "quiet", role: "status", t: "handed_back" }));
  await tried(refresh);
  $("requests-title").focus();
}
