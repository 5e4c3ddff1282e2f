// What a screen reader, a keyboard or weak eyes would stumble over in the page as it is now: a list of sentences, empty if all is well.
() => {
  const problems = [], all = (what) => [...document.querySelectorAll(what)];
  const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !element.closest(".unseen, .skip");

  const ids = all("[id]").map((element) => element.id);
  if (new Set(ids).size < ids.length) problems.push("an id occurs twice");
  for (const name of ["aria-labelledby", "aria-controls", "aria-describedby"])
    for (const element of all(`[${name}]`))
      for (const id of element.getAttribute(name).split(" "))
        if (!document.getElementById(id)) problems.push(`${name} leads nowhere: ${id}`);

  const nameOf = (element) => element.getAttribute("aria-label") || [...(element.labels ?? [])].map((label) => label.textContent).join("")
    || (element.matches("input, textarea, select") ? "" : element.textContent);
  for (const element of all("button, a, input, select, textarea, summary")) {
    if (!nameOf(element).trim() && seen(element)) problems.push("no name: " + element.outerHTML.slice(0, 80));
    if (element.tabIndex > 0) problems.push("tabindex: " + element.id);
  }
  for (const nav of all("nav")) if (!nav.getAttribute("aria-label")) problems.push("a nav without a name");
  if (all("main").length !== 1 || !document.documentElement.lang) problems.push("main or lang");
  if (all("h1").filter((title) => title.checkVisibility()).length !== 1) problems.push("not one h1");

  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const linear = (part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const found = rgb(getComputedStyle(element).backgroundColor);
      if ((found[3] ?? 1) > 0) return found;
    }
    return [255, 255, 255];
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !seen(element) || element.closest(":disabled, noscript, option")) continue;
    const [low, high] = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort((one, other) => one - other);
    if ((high + 0.05) / (low + 0.05) < 4.5) problems.push("contrast: " + text.slice(0, 40));
  }
  return problems;
}
