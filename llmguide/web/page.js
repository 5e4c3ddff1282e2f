// What every view needs: who is here, notices about problems, and a moment of waiting before the next try.
import { $, make, icon } from "./dom.js";
import { Problem } from "./api.js";
import { show } from "./words.js";

export const here = { user: "", roles: [], open: false };
export const may = (role) => here.roles.includes(role) || here.roles.includes("admin");

export function notice(problem, retry) {
  $("notice").replaceChildren(problem ? problemBox(problem, retry, () => notice(null)) : "");
}

// What happened, what the service said about it, and a button for another try once that makes sense.
export function problemBox(problem, retry, close) {
  const known = problem instanceof Problem ? problem : new Problem("broken", { detail: String(problem?.message ?? problem) });
  const words = make("span", {}, make("span", { t: known.kind }));
  const detail = [known.detail, known.remedy].filter(Boolean).join(" ");
  if (detail) words.append(make("small", { text: detail }));
  const box = make("div", { class: "notice" }, words);
  if (retry) box.append(retryButton(known.wait, retry));
  if (close) box.append(make("button", { type: "button", class: "icon", label: "close", onclick: close }, icon("close")));
  return box;
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
