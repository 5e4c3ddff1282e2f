// The page begins here: who is this, which view, which keys do what.
import { $, make, iconButton } from "./dom.js";
import { call, key, listOf, Problem } from "./api.js";
import { here, lengthLine, may, notice, tried } from "./page.js";
import { ask, answering, current, deleteConversation, newConversation, openConversation, stopAnswer } from "./chat.js";
import { openDocuments, startDocuments } from "./documents.js";
import { countRequests, leaveRequests, openRequests } from "./requests.js";
import { openAdmin, startAdmin } from "./admin.js";
import { closePanel, startPanel } from "./sources.js";
import { language, setLanguage, showAll, t } from "./words.js";

const VIEWS = { chat: openChat, documents: openDocuments, requests: openRequests, admin: openAdmin };

const NEEDED = { requests: "agent", admin: "admin" }; // who has another role sees why the page is empty

// ---- who is here

async function begin() {
  try { Object.assign(here, await call("GET", "/api/me")); }
  catch (problem) { if (problem.status !== 401) notice(problem, begin); return; }
  notice(null);
  showUser();
  await Promise.all([route(), listConversations(), countRequests()]);
}

function showUser() {
  $("user").textContent = here.open ? t("local_user") : here.user;
  $("user").title = here.user;
  $("sign-out").hidden = !key.get();
  document.querySelectorAll("[data-role]").forEach((element) => { element.hidden = !may(element.dataset.role); });
}

function askForKey() {
  const wrong = key.get() !== null;
  if (!wrong && !$("view-login").hidden) return; // asked already: somebody may be typing
  key.forget();
  Object.assign(here, { user: "", roles: [] });
  showView("login");
  document.body.classList.add("signed-out");
  $("key-problem").replaceChildren(wrong ? make("span", { t: "key_wrong" }) : "");
  $("key").value = "";
  $("key").focus();
}

function signIn(event) {
  event.preventDefault();
  key.set($("key").value.trim());
  document.body.classList.remove("signed-out");
  begin();
}

async function goOnWith(made) { // the service was open, and isn't any more
  key.set(made);
  Object.assign(here, await call("GET", "/api/me"));
  showUser();
}

function signOut() {
  key.forget();
  newConversation();
  location.hash = "#/chat";
  location.reload();
}

// ---- views

function showView(name) {
  document.querySelectorAll("main > .view").forEach((view) => { view.hidden = view.id !== `view-${name}`; });
  document.querySelectorAll("#views a").forEach((link) => current_(link, link.getAttribute("href") === `#/${name}`));
}

const current_ = (link, is) => (is ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current"));

async function route() {
  const [, name = "chat", id] = location.hash.split("/");
  const view = VIEWS[name] ? name : "chat";
  menu(false);
  closePanel();
  leaveRequests();
  showView(view);
  const role = NEEDED[view], refused = role && !may(role);
  for (const part of $(`view-${view}`).children) if (role && part.tagName !== "H1") part.classList.toggle("kept-back", refused);
  if (role) $(`${view}-only`).hidden = !refused;
  document.title = `${t(view)} · llmguide`;
  if (view !== "chat") $(`${view}-title`).focus();
  if (!refused) await VIEWS[view](id && decodeURIComponent(id));
  markConversation();
}

async function openChat(id) {
  if (id) await openConversation(id);
  else newConversation();
  $("question").focus();
}

function menu(open) {
  $("side").classList.toggle("open", open);
  $("scrim").hidden = !open;
  $("main").inert = open;
  $("menu").setAttribute("aria-expanded", String(open));
  if (open) $("side").querySelector("a").focus();
}

// ---- the list of conversations

async function listConversations() {
  const found = await call("GET", "/api/conversations").catch(() => []);
  const list = listOf(found, "conversations");
  $("no-conversations").hidden = list.length > 0;
  $("conversations").replaceChildren(...list.map(conversationRow));
  markConversation();
}

function conversationRow(each) {
  const id = each.conversation ?? each.id, name = each.title || t("untitled");
  const link = make("a", { href: `#/chat/${encodeURIComponent(id)}`, text: name, title: name });
  return make("li", {}, link, iconButton("trash", "delete_conversation", () => deleteConversation(id, name)));
}

function markConversation() {
  const open = !$("view-chat").hidden && current() && `#/chat/${encodeURIComponent(current())}`;
  $("conversations").querySelectorAll("a").forEach((link) => current_(link, link.getAttribute("href") === open));
}

// ---- composer and keyboard

function submit(event) {
  event?.preventDefault();
  const question = $("question").value;
  if (answering() || !question.trim() || !$("question").validity.valid) return;
  $("question").value = "";
  ask(question);
}

function composerKey(event) { // Enter also ends a word in an input method: that isn't sending
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
}

function pageKey(event) {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "/" && !typing && !$("view-chat").hidden && !document.querySelector("dialog:modal")) {
    event.preventDefault();
    $("question").focus();
  }
  if (event.key !== "Escape" || $("sure").open) return;
  if ($("side").classList.contains("open")) { menu(false); $("menu").focus(); }
  else if ($("panel").open) closePanel();
  else stopAnswer();
}

// ---- language and theme

function languageButton() {
  const other = language() === "zh" ? "en" : "zh";
  Object.assign($("language"), { textContent: other === "zh" ? "中文" : "English", lang: other });
}

function switchLanguage() {
  setLanguage(language() === "zh" ? "en" : "zh");
  languageButton();
  showUser();
}

function switchTheme() {
  const chosen = document.documentElement.dataset.theme, system = matchMedia("(prefers-color-scheme: dark)").matches;
  const next = (chosen ? chosen === "dark" : system) ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("theme", next); } catch { /* private window: for this visit only */ }
}

const on = (id, name, work) => $(id).addEventListener(name, work);
on("login", "submit", signIn);
on("sign-out", "click", signOut);
on("menu", "click", () => menu(!$("side").classList.contains("open")));
on("scrim", "click", () => menu(false));
on("new", "click", () => { if (location.hash === "#/chat") route(); else location.hash = "#/chat"; });
on("bar-new", "click", () => $("new").click());
on("composer", "submit", submit);
on("question", "keydown", composerKey);
on("stop", "click", stopAnswer);
on("language", "click", switchLanguage);
on("theme", "click", switchTheme);
setInterval(() => { if (!document.hidden) countRequests(); }, 15000); // somebody may be waiting
document.addEventListener("keydown", pageKey);
document.addEventListener("key-needed", askForKey);
document.addEventListener("first-key", (event) => goOnWith(event.detail));
document.addEventListener("conversations-changed", listConversations);
window.addEventListener("hashchange", route);
window.addEventListener("offline", () => notice(new Problem("offline")));
window.addEventListener("online", () => tried(() => call("GET", "/api/me")));
lengthLine($("question"), 8000, $("too-long"));
startPanel();
startDocuments();
startAdmin();
showAll();
languageButton();
begin();
