// Text of a document as elements: its tables become tables, everything else stays text.
import { flowing, make } from "./dom.js";

const isRow = (line) => /^\s*…?\s*\|.*\|\s*…?\s*$/.test(line);
const isRule = (line) => /^[\s|:…-]+$/.test(line) && line.includes("-"); // the line below the names of the columns
const cells = (line) => line.replace(/^\s*…?\s*\||\|\s*…?\s*$/g, "").split(/(?<!\\)\|/).map((cell) => plain(cell.trim().replaceAll("\\|", "|")));
const plain = (text) => text.replace(/(?<![\w*])(\*{1,3})(?![\s*])([^*\n]+?)(?<!\s)\1(?![\w*])/g, "$2"); // *emphasis*, but not 2 * 3

// The part from `from` to `to` (characters of the text) is marked, in a table the cells of its rows.
export function blocks(text, from = -1, to = -1) {
  const found = [];
  let at = 0;
  for (const line of text.split(/(?<=\n)/)) {
    const row = isRow(line);
    if (!found.length || found.at(-1).row !== row) found.push({ row, lines: [], start: at });
    found.at(-1).lines.push({ line, start: at, marked: at < to && at + line.trimEnd().length > from });
    at += line.length;
  }
  return found.flatMap((block) => (block.row ? [table(block.lines)] : words(block, from, to)));
}

function words({ lines, start }, from, to) {
  const text = lines.map((each) => each.line).join(""), cut = (place) => Math.min(Math.max(place - start, 0), text.length);
  const [before, marked, after] = [text.slice(0, cut(from)), text.slice(cut(from), cut(to)), text.slice(cut(to))].map((part) => plain(flowing(part)));
  return [before, marked && make("mark", { text: marked }), after].filter(Boolean);
}

function table(lines) {
  const rule = lines.findIndex((each) => isRule(each.line));
  const rows = lines.filter((each) => !isRule(each.line)).map((each, index) => {
    const cell = (text) => make(rule === 1 && index === 0 ? "th" : "td", {}, each.marked ? make("mark", { text }) : text);
    return make("tr", {}, ...cells(each.line).map(cell));
  });
  return make("table", {}, ...rows);
}
