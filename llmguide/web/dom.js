// Making elements. Text from anywhere becomes text, never markup.
import { show } from "./words.js";

export const $ = (id) => document.getElementById(id);

// make("button", {class: "link", t: "delete", values: {name}, label: "delete_document", onclick: f}, child, "text")
// t and label are keys of words.js, so that a change of language reaches the element; text is data.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  show(element);
  return element;
}

function set(element, name, value) {
  if (value === undefined || value === null || value === false) return;
  if (typeof value === "function") element.addEventListener(name.slice(2), value);
  else if (name === "text") element.textContent = value;
  else if (name === "t") element.dataset.t = value;
  else if (name === "label") element.dataset.tLabel = value;
  else if (name === "time") element.dataset.time = value;
  else if (name === "values") element.dataset.tValues = JSON.stringify(value);
  else element.setAttribute(name, value === true ? "" : value);
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `icons.svg#${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function iconButton(name, label, onclick, values) {
  return make("button", { type: "button", class: "icon", label, values, onclick }, icon(name));
}

// Lines that a document broke for its own width are joined: a line that goes on with a small letter is no new one.
export const flowing = (text) => text.replace(/(?<=[\p{L},;)])\n(?=\p{Ll})/gu, " ");

// A question with two buttons; true for yes. Escape is no.
export function sure(text, yes, values = {}) {
  const dialog = $("sure");
  $("sure-text").replaceChildren(make("span", { t: text, values }));
  $("sure-yes").dataset.t = yes;
  show($("sure-yes"));
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) => dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }));
}

export function announce(text) { $("announcer").textContent = text; }
