// Administration: health, keys (shown once), feedback to approve, the end of the audit log.
import { $, make, sure } from "./dom.js";
import { call, listOf } from "./api.js";
import { here, tried } from "./page.js";

const ROLES = { reader: "reader", editor: "editor", agent: "agent", admin: "admin_role" };

export async function openAdmin() {
  $("new-key").replaceChildren();
  firstKey();
  await Promise.all([tried(health), tried(keys), tried(feedback), tried(audit)]);
}

async function health() {
  const found = await call("GET", "/health");
  const parts = Object.entries(found.parts ?? {}).map(([name, state]) => tile({ text: name }, stateWords(state)));
  const facts = ["model", "documents", "version"].map((name) => tile({ t: name }, found[name]));
  $("health").replaceChildren(tile({ t: "status" }, stateWords(found.status)), ...facts, ...parts);
}

function tile(name, value) {
  return make("div", {}, make("dt", name), make("dd", {}, value instanceof Node ? value : String(value ?? "–")));
}

function stateWords(state) {
  const look = state === "ok" ? "tag good" : "tag bad";
  return make("span", ["ok", "degraded"].includes(state) ? { class: look, t: state } : { class: look, text: String(state) });
}

// ---- keys

// While there is no key, the service is open to this computer; with the first one it closes, so that must be an administrator's.
function firstKey() {
  $("first-key").hidden = !here.open;
  for (const option of $("key-roles").options) option.disabled = here.open && option.value !== "admin";
  if (here.open) $("key-roles").value = "admin";
}

async function keys() {
  const found = await call("GET", "/api/keys");
  $("key-list").replaceChildren(...listOf(found, "keys").map(keyRow));
}

function keyRow(each) {
  const detail = [each.id, (each.roles ?? []).join(", "), (each.groups ?? []).join(", ")].filter(Boolean).join(" · ");
  const until = each.expires ? [" · ", make("span", { t: "expires" }), " ", make("span", { time: each.expires })] : [];
  const name = make("div", { class: "name", text: each.user });
  const what = make("div", { class: "what" }, name, make("div", { class: "quiet" }, detail, ...until));
  if (each.revoked) return make("li", {}, what, make("span", { class: "tag bad", t: "revoked" }));
  const end = make("button", { type: "button", t: "revoke", onclick: () => revoke(each) });
  return make("li", {}, what, make("div", { class: "actions" }, end));
}

async function revoke(each) {
  if (!(await sure("revoke_sure", "revoke", { name: each.user }))) return;
  await tried(() => call("DELETE", `/api/keys/${encodeURIComponent(each.id)}`));
  await tried(keys);
  $("keys-title").scrollIntoView();
}

async function create(event) {
  event.preventDefault();
  const groups = $("key-groups").value.split(/[,，、]/).map((name) => name.trim()).filter(Boolean);
  const body = { user: $("key-user").value.trim(), roles: [$("key-roles").value], groups, days: Number($("key-days").value) };
  await tried(async () => {
    const made = await call("POST", "/api/keys", body);
    if (here.open) document.dispatchEvent(new CustomEvent("first-key", { detail: made.key })); // this tab goes on with it
    $("new-key").replaceChildren(make("strong", { t: "key_once" }), make("code", { tabindex: 0, text: made.key }));
    $("create-key").reset();
    firstKey();
    await keys();
  });
}

export function startAdmin() {
  $("key-roles").append(...Object.entries(ROLES).map(([value, words]) => make("option", { value, t: words })));
  $("create-key").addEventListener("submit", create);
}

// ---- feedback and audit

async function feedback() {
  const found = await call("GET", "/api/feedback");
  const rows = listOf(found, "feedback");
  const none = [make("li", { class: "quiet", t: "no_feedback" })];
  $("feedback-list").replaceChildren(...(rows.length ? rows.map(feedbackRow) : none));
}

function feedbackRow(each) {
  const what = make("div", { class: "what" },
    make("div", { class: "name", text: each.question }),
    make("div", { class: "quiet", text: each.answer }),
    each.comment ? make("div", { text: each.comment }) : null,
    each.correct ? make("div", { t: "correct_was", values: { text: each.correct } }) : null);
  const rating = each.rating === "up" ? { class: "tag good", t: "helpful" } : { class: "tag bad", t: "not_helpful" };
  const button = make("button", { type: "button", t: "approve", onclick: () => approve(each) });
  const end = each.approved_by ? make("span", { class: "tag good", t: "approved" }) : make("div", { class: "actions" }, button);
  return make("li", {}, what, make("span", rating), end);
}

async function approve({ id, time: seen }) {
  if (await tried(() => call("POST", `/api/feedback/${encodeURIComponent(id)}/approve`, { seen }))) await tried(feedback);
}

async function audit() {
  const found = await call("GET", "/api/audit");
  const events = listOf(found, "events").slice(-200).reverse();
  $("audit-list").replaceChildren(...(events.length ? events.map(auditLine) : [make("li", { t: "no_audit" })]));
}

function auditLine(event) {
  const { n, time, what, who, mac, ...rest } = event; // mac chains an event to the one before; llmguide checks it
  const more = Object.entries(rest).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`);
  return make("li", {}, make("span", { time }), ["", what, who, ...more].join("  "));
}
