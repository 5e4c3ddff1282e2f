// Before the first picture: the theme and the language that were chosen last, so that nothing flickers.
const chosen = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const theme = chosen("theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
document.documentElement.lang = chosen("language") || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
