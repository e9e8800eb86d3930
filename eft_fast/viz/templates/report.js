(function () {
  "use strict";
  const FORMAT = "eft-fast-selection/1", SELECTION = "selection.json";
  // Browsers end an element at some millions of pixels.
  const TALLEST = 1.2e7;
  const $ = id => document.getElementById(id);
  const content = JSON.parse($("content").textContent);
  const people = content.people;
  const list = $("people"), large = $("large");

  /* Elements are made of text alone: nothing of a name is ever read as HTML. */
  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  const share = x => x === null ? "\u2013" : (100 * x).toFixed(x < 0.1 ? 1 : 0) + " %";
  function figure(x, unit) {
    if (x === null) return "\u2013";
    if (x !== 0 && Math.abs(x) < 0.01) return x.toExponential(1) + unit;
    return x.toFixed(Math.abs(x) >= 100 ? 0 : Math.abs(x) >= 10 ? 1 : 2) + unit;
  }

  /* What is said by hand: key -> { verdict, note }. */
  let verdicts = new Map(), saved = new Map(), undone = [], canStore = true, handle = null;
  const storeKey = "eft-fast-report/" + content.run;
  const asMap = entries => new Map(entries.map(([key, verdict, note]) => [key, { verdict, note }]));
  const asList = map => [...map].map(([key, one]) => [key, one.verdict, one.note]);
  const isSame = (a, b) => (a ? a.verdict + "\n" + a.note : "") === (b ? b.verdict + "\n" + b.note : "");
  function differing(a, b) {
    return [...new Set([...a.keys(), ...b.keys()])].filter(key => !isSame(a.get(key), b.get(key)));
  }
  function restore() {
    const written = asMap(content.verdicts);
    verdicts = new Map(written);
    saved = new Map(written);
    let held = null;
    try { held = JSON.parse(localStorage.getItem(storeKey)); } catch (error) { canStore = false; }
    if (!held || ![held.verdicts, held.saved, held.written].every(Array.isArray)) return;
    // Whoever wrote the file after this browser saw it has the last word, but for what is not saved yet.
    const mine = asMap(held.verdicts), last = asMap(held.saved), seen = asMap(held.written);
    const isNew = differing(written, seen).length > 0;
    const open = differing(mine, last);
    if (!isNew) saved = last;
    verdicts = isNew ? new Map(written) : new Map(mine);
    if (isNew) for (const key of open) put(verdicts, key, mine.get(key));
  }
  function put(map, key, one) { if (one) map.set(key, one); else map.delete(key); }
  function store() {
    try {
      localStorage.setItem(storeKey, JSON.stringify(
        { verdicts: asList(verdicts), saved: asList(saved), written: content.verdicts }));
    } catch (error) { canStore = false; }
  }
  function tell(text, isProblem) {
    $("told").textContent = text;
    $("told").classList.toggle("problem", Boolean(isProblem));
  }
  function change(entries, text) {
    undone.push(entries.map(([key]) => [key, verdicts.get(key)]));
    for (const [key, one] of entries) put(verdicts, key, one);
    changed(text);
  }
  function changed(text) {
    store();
    tell(text);
    showVerdicts();
  }
  function undo() {
    const step = undone.pop();
    if (!step) return tell("There is nothing to undo.");
    for (const [key, one] of step) put(verdicts, key, one);
    const known = people.findIndex(person => person.key === step[0][0]);
    changed("Undone" + (step.length > 1 ? ", " + step.length + " people." : known < 0 ? "." : ": " + label(people[known]) + "."));
  }
  const label = person => [person.name, person.person].filter(Boolean).join(" ");
  function say(person, verdict) {
    if (!person || !content.takesVerdicts) return;
    if (verdict === "keep" && !person.canAccept) return tell(label(person) + " has no fit to accept.", true);
    const before = verdicts.get(person.key);
    if (before && before.verdict === verdict) {
      return change([[person.key, undefined]], "Nothing is said of " + label(person) + " any more.");
    }
    const note = before ? before.note : "";
    change([[person.key, { verdict, note }]], (verdict === "keep" ? "Accepted " : "Rejected ") + label(person) + ".");
  }
  function annotate(person, note) {
    const before = verdicts.get(person.key);
    if (!before || before.note === note) return;
    change([[person.key, { verdict: before.verdict, note }]], "Noted for " + label(person) + ".");
  }

  /* The file, byte for byte as pseudo_gt.save_verdicts writes it. */
  function toText(map) {
    const people = [...map].map(([key, one]) => {
      const said = JSON.stringify(one.verdict);
      const value = one.note ? `{\n   "verdict": ${said},\n   "note": ${JSON.stringify(one.note)}\n  }` : said;
      return `  ${JSON.stringify(key)}: ${value}`;
    });
    const inner = people.length ? `{\n${people.join(",\n")}\n }` : "{}";
    return `{\n "format": "${FORMAT}",\n "people": ${inner}\n}\n`;
  }
  function fromText(text) {
    const document = JSON.parse(text);
    const people = document && document.people;
    if (!people || typeof people !== "object" || Array.isArray(people) || document.format !== FORMAT) {
      throw new Error(`it must hold {"format": "${FORMAT}", "people": {id: verdict}}`);
    }
    return new Map(Object.entries(people).map(([key, value]) => {
      const isObject = value && typeof value === "object";
      const verdict = isObject ? value.verdict : value;
      if (verdict !== "keep" && verdict !== "reject") throw new Error(`the verdict on ${key} must be keep or reject`);
      return [key, { verdict, note: isObject && typeof value.note === "string" ? value.note : "" }];
    }));
  }
  async function save() {
    const text = toText(verdicts), now = new Map(verdicts);
    let place = "your downloads; move it into the folder of this report";
    if (window.showSaveFilePicker) {
      try {
        handle = handle || await window.showSaveFilePicker({ suggestedName: SELECTION,
          types: [{ description: "verdicts", accept: { "application/json": [".json"] } }] });
        const stream = await handle.createWritable();
        await stream.write(text);
        await stream.close();
        place = handle.name;
      } catch (error) {
        handle = null;
        if (error.name === "AbortError") return tell("Not saved.", true);
        download(text);
      }
    } else {
      download(text);
    }
    saved = now;
    changed(`Saved ${now.size} ${now.size === 1 ? "verdict" : "verdicts"} in ${place}.`);
  }
  function download(text) {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = SELECTION;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  async function load(file) {
    let found;
    try { found = fromText(await file.text()); } catch (error) {
      return tell(`${file.name} is no file of verdicts: ${error.message}`, true);
    }
    const keys = differing(verdicts, found), known = new Set(people.map(person => person.key));
    const strangers = [...found.keys()].filter(key => !known.has(key)).length;
    saved = new Map(found);
    const text = `Loaded ${found.size} from ${file.name}` + (strangers ? `; ${strangers} about nobody here.` : ".");
    if (keys.length) change(keys.map(key => [key, found.get(key)]), text); else changed(text);
  }

  /* Who is shown, and in which order: shown[i] is an index into people. */
  let shown = [], cursor = 0, row = 1;
  const collator = new Intl.Collator(undefined, { numeric: true });
  const badness = people.map(person => person.badness);
  const words = people.map(person => [label(person), person.key, person.level, ...person.why, ...person.remarks,
    person.message, person.stopped].join(" ").toLowerCase());
  function compare(key) {
    if (key === "name") return (a, b) => collator.compare(label(people[a]), label(people[b]));
    if (key === "worst") return (a, b) => {
      for (let k = 0; k < 2; ++k) if (badness[a][k] !== badness[b][k]) return badness[b][k] - badness[a][k];
      return a - b;
    };
    return (a, b) => people[a][key] - people[b][key] || a - b;
  }
  function isWanted(person, level) {
    const said = verdicts.get(person.key);
    switch (level) {
      case "": return true;
      case "message": return Boolean(person.message || person.remarks.length);
      case "accepted": return Boolean(said) && said.verdict === "keep";
      case "rejected": return Boolean(said) && said.verdict === "reject";
      case "open": return !said;
      default: return person.level === level;
    }
  }
  function arrange() {
    const key = $("order").value, level = $("level").value, text = $("filter").value.trim().toLowerCase();
    const kept = [];
    people.forEach((person, k) => { if (isWanted(person, level) && words[k].includes(text)) kept.push(k); });
    // Large numbers first, names and numbers from the beginning; who has no number comes last in either direction.
    const isText = key === "name" || key === "number", sign = $("turn").getAttribute("aria-pressed") === "true" ? -1 : 1;
    const order = compare(key), isKnown = k => key === "worst" || isText || people[k][key] !== null;
    const known = kept.filter(isKnown).sort((a, b) => sign * (isText || key === "worst" ? order(a, b) : -order(a, b)));
    shown = known.concat(kept.filter(k => !isKnown(k)));
    cursor = 0;
    layOut();
    const all = people.length.toLocaleString("en");
    $("shown").textContent = (shown.length === people.length ? "" : shown.length.toLocaleString("en") + " of ") + all + " people"
      + (limit() < shown.length ? `; the first ${limit().toLocaleString("en")} are listed, filter for others` : "");
  }

  /* Only rows in sight, and the current one, are elements. */
  let elements = new Map();
  const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
  const limit = () => Math.floor(TALLEST / row);
  function layOut() {
    row = rowHeight();
    list.style.height = Math.min(shown.length, limit()) * row + "px";
    elements.forEach(element => element.remove());
    elements = new Map();
    draw();
  }
  function draw(everybody) {
    const count = Math.min(shown.length, limit()), above = -list.getBoundingClientRect().top / row;
    const first = everybody ? 0 : Math.max(0, Math.floor(above) - 3);
    const last = everybody ? count : Math.min(count, Math.ceil(above + window.innerHeight / row) + 3);
    for (const [place, element] of elements) {
      if ((place < first || place >= last) && place !== cursor) { element.remove(); elements.delete(place); }
    }
    if (cursor < count) show(cursor);
    for (let place = first; place < last; ++place) show(place);
  }
  function show(place) {
    if (elements.has(place)) return;
    const element = makeRow(people[shown[place]], place);
    // Tab follows the order of the elements.
    let next = null;
    for (const [other, there] of elements) if (other > place && (next === null || other < next[0])) next = [other, there];
    list.insertBefore(element, next ? next[1] : null);
    elements.set(place, element);
  }
  function makeRow(person, place) {
    const element = make("article", "person");
    element.setAttribute("role", "listitem");
    element.setAttribute("aria-posinset", place + 1);
    element.setAttribute("aria-setsize", shown.length);
    element.setAttribute("aria-label", label(person));
    element.tabIndex = place === cursor ? 0 : -1;
    element.style.top = place * row + "px";
    element.dataset.number = person.number;
    element.append(makeShot(person), makeWho(person), makeFigures(person));
    if (content.takesVerdicts) element.append(makeHand(person));
    element.addEventListener("click", () => choose(place));
    element.addEventListener("focusin", () => choose(place));
    refresh(element, person, place);
    return element;
  }
  function makeShot(person) {
    const shot = make(person.link ? "a" : "div", "shot");
    if (person.link) {
      shot.href = person.link;
      shot.addEventListener("click", event => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || !large.showModal) return;
        event.preventDefault();
        enlarge(person);
      });
    }
    if (person.thumbnail) {
      const image = make("img");
      image.loading = "lazy";
      image.decoding = "async";
      image.width = person.width;
      image.height = person.height;
      image.alt = person.link ? "large picture of " + label(person) : label(person);
      image.src = person.thumbnail;
      shot.append(image);
    } else {
      shot.append(make("span", "", person.link ? "open the picture" : "no picture"));
    }
    return shot;
  }
  function makeWho(person) {
    const who = make("div", "who");
    const name = make("span", "name", person.name);
    name.title = person.name;
    const which = make("span", "which", ["#" + person.number, person.person].filter(Boolean).join("  \u00b7  "));
    if (person.view) {
      const view = make("a", "space", "3D");
      view.href = person.view;
      view.setAttribute("aria-label", label(person) + " in 3D");
      which.append("  \u00b7  ", view);
    }
    const why = make("div", "why");
    const level = person.level || (person.hasFit ? "" : "no fit");
    if (level) why.append(make("span", "badge " + (person.level || "reject"), level), " ");
    if (person.why.length) why.append(make("span", "reason", person.why.join("; ")), " ");
    if (person.remarks.length) why.append(make("span", "remark", person.remarks.join("; ") + "."), " ");
    if (person.message) why.append(make("span", "message", person.message));
    why.title = [...person.why, ...person.remarks, person.message].filter(Boolean).join("\n");
    who.append(name, which, why);
    return who;
  }
  function makeFigures(person) {
    const box = make("div", "figures"), start = make("div", "start"), fit = make("div", "fit");
    start.append(make("h3", "", "start"), makeError(person.initError, person.initErrorPx));
    fit.append(make("h3", "", "fit"), makeError(person.error, person.errorPx));
    if (person.confidence !== null) start.append(makeSure(person));
    if (person.sigma !== null) fit.append(make("span", "sigma", "\u00b1 " + figure(person.sigma, " mm a joint")));
    const stopped = make("span", "more", person.stopped);
    stopped.title = [person.stopped, person.stoppedBecause].filter(Boolean).join(": ");
    fit.append(make("span", "more", "loss " + figure(person.loss, "") + ", " + person.steps + " steps"), stopped);
    box.append(start, fit);
    return box;
  }
  function makeError(error, pixels) {
    const box = make("div"), number = make("b", error !== null && error > content.bad ? "bad" : "");
    number.textContent = error === null ? figure(pixels, " px") : share(error);
    box.append(number);
    if (error !== null) box.append(make("span", "", figure(pixels, " px")));
    return box;
  }
  function makeSure(person) {
    const box = make("div", "sure"), svg = document.createElementNS($("sample").namespaceURI, "svg");
    const [width, height] = content.figure;
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", person.unsure);
    content.places.forEach(([x, y], k) => {
      const dot = document.createElementNS(svg.namespaceURI, "circle");
      for (const [name, value] of [["class", "s" + person.dots[k]], ["cx", x], ["cy", y], ["r", 2]]) dot.setAttribute(name, value);
      svg.append(dot);
    });
    box.title = person.unsure + "; of the start: mean probability, said by the regressor, that a joint lies within 100 mm; "
      + "a dot per joint, seen from the front, the fuller the surer";
    box.append(svg, make("span", "", share(person.confidence) + " sure"));
    return box;
  }
  function makeHand(person) {
    const hand = make("div", "hand");
    const accept = make("button", "accept", "Accept"), reject = make("button", "rejected", "Reject"), note = make("input", "note");
    accept.type = reject.type = "button";
    accept.disabled = !person.canAccept;
    accept.setAttribute("aria-label", "Accept " + label(person));
    reject.setAttribute("aria-label", "Reject " + label(person));
    accept.addEventListener("click", () => say(person, "keep"));
    reject.addEventListener("click", () => say(person, "reject"));
    note.maxLength = 500;
    note.placeholder = "note";
    note.setAttribute("aria-label", "Note on " + label(person));
    note.addEventListener("change", () => annotate(person, note.value));
    note.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); event.stopPropagation(); note.blur(); focusRow(); }
    });
    hand.append(accept, reject, note);
    return hand;
  }
  function refresh(element, person, place) {
    const said = verdicts.get(person.key), level = said ? said.verdict : person.level || (person.hasFit ? "" : "reject");
    element.classList.remove("keep", "doubtful", "reject");
    if (level) element.classList.add(level);
    if (place !== undefined) {
      element.setAttribute("aria-current", String(place === cursor));
      element.tabIndex = place === cursor ? 0 : -1;
    }
    const hand = element.querySelector(".hand");
    if (!hand) return;
    hand.children[0].setAttribute("aria-pressed", String(Boolean(said) && said.verdict === "keep"));
    hand.children[1].setAttribute("aria-pressed", String(Boolean(said) && said.verdict === "reject"));
    const note = hand.children[2];
    note.disabled = !said;
    note.title = said ? "" : "accept or reject first";
    if (note !== document.activeElement) note.value = said ? said.note : "";
  }
  function showVerdicts() {
    elements.forEach((element, place) => refresh(element, people[shown[place]], place));
    if (large.open) refresh(large, current());
    let accepted = 0;
    verdicts.forEach(one => { accepted += one.verdict === "keep"; });
    const open = differing(verdicts, saved).length;
    $("counts").textContent = `By hand: ${accepted} accepted, ${verdicts.size - accepted} rejected; `
      + (open ? open + " not saved." : "all saved.");
    $("undo").disabled = !undone.length;
    if (!canStore) $("counts").textContent += " This browser keeps nothing: save before you leave.";
  }

  const current = () => people[shown[cursor]];
  function choose(place) {
    if (place === cursor) return;
    const before = elements.get(cursor);
    cursor = place;
    if (before) { before.setAttribute("aria-current", "false"); before.tabIndex = -1; }
    const element = elements.get(place);
    if (element) { element.setAttribute("aria-current", "true"); element.tabIndex = 0; }
  }
  function move(by) {
    const count = Math.min(shown.length, limit());
    if (!count) return;
    choose(Math.min(Math.max(cursor + by, 0), count - 1));
    reveal();
    if (large.open) enlarge(current()); else focusRow();
  }
  function reveal() {
    const top = list.getBoundingClientRect().top + window.scrollY + cursor * row;
    const tools = document.querySelector(".tools");
    const above = getComputedStyle(tools).position === "sticky" ? tools.offsetHeight : 0;
    const bar = document.querySelector(".bar"), below = bar.hidden ? 0 : bar.offsetHeight;
    if (top - above < window.scrollY) window.scrollTo(0, top - above);
    else if (top + row + below > window.scrollY + window.innerHeight) window.scrollTo(0, top + row + below - window.innerHeight);
    draw();
  }
  function focusRow() {
    const element = elements.get(cursor);
    if (element && !large.open) element.focus({ preventScroll: true });
  }
  function enlarge(person) {
    if (!person || !large.showModal) return;
    const close = make("form"), button = make("button", "", "Close");
    close.method = "dialog";
    close.append(button);
    large.replaceChildren(close);
    if (person.link || person.thumbnail) {
      const image = make("img");
      image.alt = label(person);
      image.src = person.link || person.thumbnail;
      large.append(image);
    }
    large.append(makeWho(person), makeFigures(person));
    if (content.takesVerdicts) large.append(makeHand(person));
    refresh(large, person);
    if (!large.open) large.showModal();
  }
  large.addEventListener("close", focusRow);
  large.addEventListener("click", event => { if (event.target === large) large.close(); });

  const keys = {
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
    PageDown: () => move(Math.max(1, Math.floor(window.innerHeight / row) - 1)),
    PageUp: () => move(-Math.max(1, Math.floor(window.innerHeight / row) - 1)),
    Home: () => move(-people.length), End: () => move(people.length),
    v: () => { const person = current(); if (person && person.view) location.href = person.view; else tell("There is no 3D view of this person."); },
    a: () => say(current(), "keep"), r: () => say(current(), "reject"), u: undo, s: save,
    n: () => {
      const note = (large.open ? large : elements.get(cursor) || large).querySelector(".note");
      if (!note) return;
      if (note.disabled) tell("Accept or reject first, then note why."); else note.focus();
    },
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "Enter" && event.target.classList.contains("person")) { event.preventDefault(); enlarge(current()); return; }
    const action = keys[event.key];
    if (!action || (!content.takesVerdicts && "aruns".includes(event.key))) return;
    event.preventDefault();
    action();
  });

  let waiting = false;
  window.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, { passive: true });
  // A keyboard on the screen resizes the window too: rows that stay as high keep what is typed in them.
  window.addEventListener("resize", () => { if (rowHeight() === row) draw(); else layOut(); });
  window.addEventListener("beforeprint", () => draw(true));
  window.addEventListener("afterprint", () => draw());
  window.addEventListener("storage", event => { if (event.key === storeKey) { restore(); showVerdicts(); } });
  window.addEventListener("beforeunload", event => { if (!canStore && differing(verdicts, saved).length) event.preventDefault(); });
  document.querySelector("details").addEventListener("toggle", () => draw());
  $("filter").addEventListener("input", arrange);
  $("level").addEventListener("change", arrange);
  $("order").addEventListener("change", arrange);
  $("turn").addEventListener("click", () => {
    $("turn").setAttribute("aria-pressed", String($("turn").getAttribute("aria-pressed") !== "true"));
    arrange();
  });
  $("undo").addEventListener("click", undo);
  $("save").addEventListener("click", save);
  $("load").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { if ($("file").files[0]) load($("file").files[0]); $("file").value = ""; });

  document.querySelectorAll(".verdict").forEach(element => { element.hidden = !content.takesVerdicts; });
  restore();
  arrange();
  showVerdicts();
})();
