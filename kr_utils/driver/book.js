// Search in this folder, without a server: SECTIONS comes from search.js.
const query = document.getElementById("query");
const found = document.getElementById("found");
query.addEventListener("input", () => {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  found.replaceChildren();
  if (!words.length) return;
  const hits = SECTIONS.map((section) => {
    const title = section.title.toLowerCase();
    const all = (section.page + " " + section.title + " " + section.text).toLowerCase();
    if (!words.every((word) => all.includes(word))) return null;
    return { section, score: words.filter((word) => title.includes(word)).length };
  }).filter(Boolean);
  hits.sort((a, b) => b.score - a.score);
  for (const { section } of hits.slice(0, 12)) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = section.url;
    link.textContent = section.page === section.title ? section.page : section.page + ": " + section.title;
    item.append(link);
    found.append(item);
  }
  if (!hits.length) {
    const item = document.createElement("li");
    item.textContent = "Nothing found.";
    found.append(item);
  }
});

// All code at once
const fold = document.getElementById("fold");
fold.addEventListener("click", () => {
  const hide = fold.getAttribute("aria-pressed") === "false";
  fold.setAttribute("aria-pressed", String(hide));
  document.querySelectorAll("details.code").forEach((part) => (part.open = !hide));
});
