(function () {
  "use strict";
  const $ = id => document.getElementById(id);
  const content = JSON.parse($("content").textContent), people = content.people;
  const svg = $("photo");
  let place = 0, person = null, adding = -1, held = null, asked = 0, queue = Promise.resolve();

  function make(tag, attributes) {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    return element;
  }
  function tell(text, isProblem) {
    $("told").textContent = text;
    $("told").classList.toggle("problem", Boolean(isProblem));
  }
  const share = x => x === null ? "\u2013" : (100 * x).toFixed(1) + " %";

  async function fetchJson(path, body) {
    const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const answer = await fetch(path, options);
    if (!answer.ok) throw new Error("the server says " + answer.status);
    return answer.json();
  }
  async function open(wanted) {
    place = (wanted + people.length) % people.length;
    $("who").value = place;
    adding = -1;
    const mine = ++asked;
    try {
      const found = await fetchJson("person/" + people[place].row);
      if (mine === asked) { person = found; show(); }
    } catch (error) { tell("The review has ended: " + error.message, true); }
  }
  /* One change after the other, in the order in which they were asked for; each is answered by the person as it then is. */
  function act(body, path) {
    if (!person) return;
    const place = path || "person/" + person.row;
    queue = queue.then(() => perform(body, place));
    return queue;
  }
  async function perform(body, path) {
    try {
      const answer = await fetchJson(path, body);
      if (answer.refused) { tell(answer.refused, true); if (person.photo) draw(); return; }
      if (answer.person) {
        const at = people.findIndex(one => one.row === answer.person.row);
        people[at].edited = answer.person.edited;
        people[at].verdict = answer.person.verdict;
        content.saved = answer.saved;
        // Who has gone on to somebody else is not called back.
        if (path !== "undo" && at !== place) return count();
        place = at;
        $("who").value = at;
        person = answer.person;
        show(body.keypoint);
        tell(["move", "remove", "flip"].includes(body.do) ? `fitted again in ${person.milliseconds} ms` : "");
      }
      return answer;
    } catch (error) { tell("The review has ended: " + error.message, true); }
  }
  async function save() {
    const answer = await act({}, "save");
    if (answer && answer.saved && !answer.person) { content.saved = true; tell("Saved in " + answer.saved + "; the run itself is as it was."); count(); }
  }
  async function undo() {
    const answer = await act({}, "undo");
    if (answer && answer.row === null) tell("There is nothing to undo.");
  }
  function say(verdict) {
    const isAgain = person.verdict === verdict;
    act({ do: "say", verdict: isAgain ? null : verdict, note: isAgain ? "" : $("note").value });
  }

  function label(one) { return (one.verdict === "keep" ? "\u2713 " : one.verdict === "reject" ? "\u2717 " : "") + (one.edited ? "* " : "") + one.name; }
  function count() {
    const said = people.filter(one => one.verdict).length, changed = people.filter(one => one.edited).length;
    $("count").textContent = `${place + 1} of ${people.length}, worst first; ${said} judged, ${changed} fitted again` + (content.saved ? "" : "; not saved");
    [...$("who").options].forEach((option, k) => { option.textContent = label(people[k]); });
  }
  function show(keypoint) {
    count();
    $("level").textContent = person.level;
    $("level").className = person.level;
    $("facts").textContent = `error ${share(person.before)} of the box as fitted` + (person.edited ? `, ${share(person.after)} now` : "")
      + (person.sigma === null ? "" : `; joints \u00b1 ${Math.round(person.sigma)} mm`) + `; ${person.stopped}`;
    $("why").textContent = [...person.why, person.message].filter(Boolean).join("; ");
    $("accept").setAttribute("aria-pressed", String(person.verdict === "keep"));
    $("accept").disabled = !person.canAccept;
    $("reject").setAttribute("aria-pressed", String(person.verdict === "reject"));
    $("note").value = person.note;
    $("suggestion").textContent = person.suggestion ? person.suggestion.words : "nothing to suggest";
    $("missing").replaceChildren(...person.keypoints.flatMap((one, k) => {
      if (one.at) return [];
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = one.name;
      button.setAttribute("aria-pressed", String(k === adding));
      button.addEventListener("click", () => add(k));
      return [button];
    }));
    $("flips").replaceChildren(...Object.entries(person.flips).map(([name, isOn]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name.replace("_", " ").replace("_", " ");
      button.dataset.bone = name;
      button.setAttribute("aria-pressed", String(isOn));
      button.addEventListener("click", () => act({ do: "flip", bone: name }));
      return button;
    }));
    $("reset").disabled = !person.edited;
    $("side").src = person.side || "data:,";
    $("side").hidden = !person.side;
    if (person.problem) tell(person.problem, true);
    svg.replaceChildren();
    if (person.photo) draw(keypoint);
  }
  function add(keypoint) {
    adding = adding === keypoint ? -1 : keypoint;
    svg.classList.toggle("adding", adding >= 0);
    tell(adding < 0 ? "" : `click where ${person.keypoints[keypoint].name} is`);
    [...$("missing").children].forEach(button => button.setAttribute("aria-pressed", String(adding >= 0 && button.textContent === person.keypoints[adding].name)));
  }
  /* Everything is in photo pixels: an integer is the centre of a pixel. */
  function draw(keypoint) {
    const [width, height] = person.photo, [x, y, w, h] = person.view, unit = Math.max(w, h) / 100;
    svg.setAttribute("viewBox", person.view.join(" "));
    const picture = make("image", { href: "photo/" + person.row, x: -0.5, y: -0.5, width, height, preserveAspectRatio: "none" });
    svg.replaceChildren(picture);
    if (person.body) {
      const body = make("image", { href: person.body.data, x: person.body.at[0], y: person.body.at[1], width: w, height: h, opacity: $("opacity").value / 100 });
      body.id = "body";
      svg.append(body);
    }
    const points = person.keypoints;
    for (const [a, b] of person.edges) if (points[a].at && points[b].at) {
      svg.append(make("line", { class: "limb", x1: points[a].at[0], y1: points[a].at[1], x2: points[b].at[0], y2: points[b].at[1], "stroke-width": unit * 0.5 }));
    }
    points.forEach((one, k) => {
      if (one.at && one.fit) svg.append(make("line", { class: "miss", x1: one.at[0], y1: one.at[1], x2: one.fit[0], y2: one.fit[1], "stroke-width": unit * 0.35 }));
      const isHint = person.suggestion && person.suggestion.keypoint === k;
      if (!one.at && one.fit && isHint) svg.append(make("circle", { class: "hint", cx: one.fit[0], cy: one.fit[1], r: unit * 2.4, "stroke-width": unit * 0.5 }));
    });
    points.forEach((one, k) => {
      if (!one.at) return;
      const r = unit * 1.15, isSquare = one.side === "right";
      const dot = isSquare ? make("rect", { x: one.at[0] - r, y: one.at[1] - r, width: 2 * r, height: 2 * r }) : make("circle", { cx: one.at[0], cy: one.at[1], r });
      dot.setAttribute("class", `dot ${one.side}${one.weak ? " weak" : ""}`);
      dot.setAttribute("stroke-width", unit * (one.edited ? 0.55 : 0.3));
      dot.setAttribute("tabindex", 0);
      dot.setAttribute("role", "button");
      dot.setAttribute("aria-label", one.name);
      dot.dataset.keypoint = k;
      const title = make("title");
      title.textContent = one.name;
      dot.append(title);
      svg.append(dot);
      if (k === keypoint) dot.focus({ preventScroll: true });
    });
  }
  function toPhoto(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [at.x, at.y];
  }
  svg.addEventListener("pointerdown", event => {
    const keypoint = event.target.dataset ? event.target.dataset.keypoint : undefined;
    if (adding >= 0) {
      const [x, y] = toPhoto(event), chosen = adding;
      adding = -1;
      svg.classList.remove("adding");
      act({ do: "move", keypoint: chosen, x, y });
    } else if (keypoint !== undefined) {
      held = { keypoint: Number(keypoint), dot: event.target, hasMoved: false };
      svg.setPointerCapture(event.pointerId);
    }
  });
  svg.addEventListener("pointermove", event => {
    if (!held) return;
    held.hasMoved = true;
    const [x, y] = toPhoto(event), dot = held.dot;
    if (dot.tagName === "rect") {
      dot.setAttribute("x", x - dot.getAttribute("width") / 2);
      dot.setAttribute("y", y - dot.getAttribute("height") / 2);
    } else {
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
    }
  });
  svg.addEventListener("pointerup", event => {
    if (!held) return;
    const { keypoint, hasMoved, dot } = held, [x, y] = toPhoto(event);
    held = null;
    if (hasMoved) act({ do: "move", keypoint, x, y }); else dot.focus({ preventScroll: true });
  });
  svg.addEventListener("pointercancel", () => { held = null; if (person) draw(); });

  const keys = {
    j: () => open(place + 1), k: () => open(place - 1), a: () => say("keep"), r: () => say("reject"), u: undo, s: save,
    g: () => { if (person.suggestion) add(person.suggestion.keypoint); },
    Escape: () => { if (adding >= 0) add(adding); },
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select") || !person) return;
    const keypoint = event.target.dataset ? event.target.dataset.keypoint : undefined;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (keypoint !== undefined && step) {
      const at = person.keypoints[Number(keypoint)].at, size = Math.max(...person.view.slice(2)) / (event.shiftKey ? 40 : 200);
      event.preventDefault();
      act({ do: "move", keypoint: Number(keypoint), x: at[0] + step[0] * size, y: at[1] + step[1] * size });
    } else if (keypoint !== undefined && (event.key === "Delete" || event.key === "Backspace")) {
      event.preventDefault();
      act({ do: "remove", keypoint: Number(keypoint) });
    } else if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  people.forEach((one, k) => $("who").add(new Option(label(one), k)));
  $("who").addEventListener("change", () => open(Number($("who").value)));
  $("previous").addEventListener("click", () => open(place - 1));
  $("next").addEventListener("click", () => open(place + 1));
  $("accept").addEventListener("click", () => say("keep"));
  $("reject").addEventListener("click", () => say("reject"));
  $("note").addEventListener("change", () => { if (person.verdict) act({ do: "say", verdict: person.verdict, note: $("note").value }); });
  $("undo").addEventListener("click", undo);
  $("save").addEventListener("click", save);
  $("reset").addEventListener("click", () => act({ do: "reset" }));
  $("opacity").addEventListener("input", () => { const body = $("body"); if (body) body.setAttribute("opacity", $("opacity").value / 100); });
  open(0);
})();
