// What every view needs: who is here, notices about problems, and a moment of waiting before the next try.
import { $, make, icon } from "./dom.js";
import { Problem } from "./api.js";
import { show, t } from "./words.js";

export const here = { user: "", roles: [], open: false };
export const may = (role) => here.roles.includes(role) || here.roles.includes("admin");

export function notice(problem, retry) {
  $("notice").replaceChildren(problem ? problemBox(problem, retry, () => notice(null)) : "");
}

// What happened, what the service said about it, and a button for another try once that makes sense.
export function problemBox(problem, retry, close) {
  const known = problem instanceof Problem ? problem : new Problem("broken", { detail: String(problem?.message ?? problem) });
  const words = make("span", {}, make("span", { t: known.kind }));
  const detail = [known.detail, known.remedy].filter(Boolean).map(sentence).join(" ");
  if (detail) words.append(make("small", { text: detail }));
  const box = make("div", { class: "notice" }, words);
  if (retry) box.append(retryButton(known.wait, retry));
  if (close) box.append(make("button", { type: "button", class: "icon", label: "close", onclick: close }, icon("close")));
  return box;
}

// "ask again later" becomes "Ask again later."
const sentence = (text) => text.trim().replace(/^[a-z]+(?!\w)/, (word) => word[0].toUpperCase() + word.slice(1)).replace(/[^.!?。！？]$/, "$&.");

// A line that says when there is too much in a field. Nothing is cut, and what is too long isn't sent.
export function lengthLine(field, most, line = make("p", { class: "problem", role: "status" })) {
  field.addEventListener("input", () => {
    const values = { length: [...field.value].length, most }, over = values.length > most;
    line.replaceChildren(over ? make("span", { t: "too_long", values }) : "");
    field.setCustomValidity(over ? t("too_long", values) : "");
  });
  return line;
}

function retryButton(wait, retry) {
  const button = make("button", { type: "button", t: "try_again", onclick: retry });
  if (wait > 0) countdown(button, wait);
  return button;
}

function countdown(button, seconds) {
  button.disabled = seconds > 0;
  button.dataset.t = seconds > 0 ? "try_in" : "try_again";
  button.dataset.tValues = JSON.stringify({ seconds });
  show(button);
  if (seconds > 0) setTimeout(() => countdown(button, seconds - 1), 1000);
}

// Runs a piece of work and shows what went wrong, if anything did; true when all went well.
export async function tried(work) {
  notice(null);
  try { await work(); return true; }
  catch (problem) { if (problem.name !== "AbortError" && problem.status !== 401) notice(problem); return false; }
}
