// Live updates, keys and the scrolling of the CT. Everything else on the pages works without this file.
"use strict";

const one = (selector, root = document) => root.querySelector(selector);
const every = (selector, root = document) => [...root.querySelectorAll(selector)];

// -- live updates -----------------------------------------------------------------------------------------------
// The server says only that something has changed; the page then reads its own address again and takes over what
// differs, node by node: what has the focus, what is selected and what is unfolded stays as it is.

const FIRST_WAIT = 1000, LONGEST_WAIT = 60000, SILENCE = 40000, PAUSE = 2000;

class Live {
  constructor(source, mark) {
    this.source = source;
    this.mark = mark;
    this.wait = FIRST_WAIT;
    this.state = "wait";
    this.pending = false;
    mark.hidden = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.rest() : this.connect()));
    for (const name of ["focusout", "selectionchange"]) {
      document.addEventListener(name, () => { if (this.pending) this.ask(); });
    }
    if (!document.hidden) this.connect();
  }

  connect() { // a browser allows six streams to a host: pages that nobody sees do without
    if (this.events || this.over) return;
    clearTimeout(this.again);
    this.events = new EventSource(this.source);
    this.events.addEventListener("change", () => { this.heard(); this.ask(); });
    this.events.addEventListener("beat", () => this.heard());
    this.events.addEventListener("end", () => this.end());
    this.events.onerror = () => this.lost();
    this.listen();
  }

  rest() {
    this.close();
    this.tell("wait", "paused");
  }

  close() {
    clearTimeout(this.silence);
    clearTimeout(this.again);
    if (this.events) this.events.close();
    this.events = null;
  }

  listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.lost(), SILENCE);
  }

  heard() {
    this.wait = FIRST_WAIT;
    this.listen();
    this.tell("live", "Live");
  }

  lost() {
    this.close();
    if (this.over || document.hidden) return;
    this.tell("lost", "Not live: no connection, trying again");
    this.again = setTimeout(() => this.connect(), this.wait * (0.75 + Math.random() / 2));
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }

  end() {
    this.over = true;
    this.close();
    this.tell("lost", "Not live: signed out");
  }

  tell(state, text) {
    this.mark.dataset.state = state;
    if (this.mark.textContent !== text) this.mark.textContent = text;
  }

  ask() { // at most one reading in PAUSE ms; what changes while one is under way is read once more
    if (this.reading) this.missed = true;
    if (this.reading || this.due) return;
    const since = Date.now() - (this.last || 0);
    this.due = setTimeout(() => this.read(), Math.max(50, PAUSE - since));
  }

  async read() {
    this.due = null;
    this.missed = false;
    this.reading = true;
    try {
      const headers = { "X-Background": "1", Accept: "text/html" };
      const answer = await fetch(location.href.split("#")[0], { headers, cache: "no-store" });
      if (answer.redirected) return this.end();
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      this.pending = takeOver(fresh);
    } catch {
      this.lost();
    } finally {
      this.last = Date.now();
      this.reading = false;
      if (this.missed && !this.over) this.ask();
    }
  }
}

function takeOver(fresh) { // true where something had to be left as it is for now
  let left = false;
  for (const here of every("[data-live]")) {
    const there = fresh.getElementById(here.id);
    if (there) left = morph(here, there) || left;
  }
  const stale = one("#stale");
  if (stale && one("[data-version]", fresh)?.dataset.version !== loadedVersion) stale.hidden = false;
  ages();
  return left;
}

const loadedVersion = one("[data-version]")?.dataset.version;

function selected(node) {
  const selection = document.getSelection();
  return Boolean(selection) && !selection.isCollapsed && selection.containsNode(node, true);
}

function busy(node) {
  return node.contains(document.activeElement) || selected(node);
}

function morph(here, there) {
  if (here.isEqualNode(there)) return false;
  if (here.nodeType === Node.TEXT_NODE && there.nodeType === Node.TEXT_NODE) {
    if (selected(here)) return true;
    here.nodeValue = there.nodeValue;
    return false;
  }
  if (here.nodeName !== there.nodeName || here.nodeType !== Node.ELEMENT_NODE) {
    if (busy(here)) return true;
    here.replaceWith(document.importNode(there, true));
    return false;
  }
  if (here.matches("[data-ago]") && here.getAttribute("datetime") === there.getAttribute("datetime")) return false;
  for (const { name } of [...here.attributes]) {
    if (!there.hasAttribute(name) && name !== "open" && name !== "class") here.removeAttribute(name);
  }
  for (const { name, value } of [...there.attributes]) {
    if (name !== "open" && here.getAttribute(name) !== value) here.setAttribute(name, value);
  }
  return here.matches("[data-rows]") ? morphRows(here, there) : morphChildren(here, there);
}

function morphChildren(here, there) {
  let left = false;
  const mine = [...here.childNodes], theirs = [...there.childNodes];
  theirs.forEach((child, at) => {
    if (at < mine.length) left = morph(mine[at], child) || left;
    else here.append(document.importNode(child, true));
  });
  for (const extra of mine.slice(theirs.length)) {
    if (busy(extra)) left = true;
    else extra.remove();
  }
  return left;
}

function morphRows(here, there) { // rows are known by their ids; the one in use is never moved, others move around it
  let left = false;
  const mine = new Map([...here.children].map((row) => [row.id, row]));
  const wanted = new Set([...there.children].map((row) => row.id));
  for (const [id, row] of mine) {
    if (wanted.has(id)) continue;
    if (busy(row)) left = true;
    else row.remove();
  }
  const ordered = [...there.children].map((row) => {
    const known = mine.get(row.id);
    if (!known) return changed(document.importNode(row, true));
    const before = known.textContent;
    left = morph(known, row) || left;
    return known.textContent === before ? known : changed(known);
  });
  const fixed = ordered.findIndex((row) => row.isConnected && busy(row));
  if (fixed < 0) {
    ordered.forEach((row, at) => { if (here.children[at] !== row) here.insertBefore(row, here.children[at] || null); });
  } else {
    for (const row of ordered.slice(0, fixed)) if (!inPlace(here, row, ordered, fixed)) here.insertBefore(row, ordered[fixed]);
    let last = ordered[fixed];
    for (const row of ordered.slice(fixed + 1)) {
      if (last.nextElementSibling !== row) last.after(row);
      last = row;
    }
  }
  return left;
}

function inPlace(here, row, ordered, fixed) {
  return row.parentNode === here && row.nextElementSibling === ordered[ordered.indexOf(row) + 1] && ordered.indexOf(row) < fixed;
}

function changed(row) {
  row.classList.remove("changed");
  void row.offsetWidth; // so that the mark begins again
  row.classList.add("changed");
  return row;
}

function ages() {
  for (const element of every("[data-ago]")) {
    const minutes = Math.floor((Date.now() - new Date(element.getAttribute("datetime"))) / 60000);
    const hours = Math.floor(minutes / 60);
    const text = minutes < 1 ? "under 1 min" : minutes < 60 ? `${minutes} min`
      : hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
    if (element.textContent !== text && !selected(element)) element.textContent = text;
  }
}

// -- keys -------------------------------------------------------------------------------------------------------

const keysOn = () => localStorage.getItem("keys") !== "off";

function typing(target) {
  return target.matches("input:not([type=range]):not([type=radio]):not([type=checkbox]), select, textarea");
}

function step(by) {
  const rows = every("[data-row]");
  if (!rows.length) return;
  const at = rows.findIndex((row) => row === document.activeElement || row.closest("tr").contains(document.activeElement));
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
  rows[next].focus();
}

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]")) return;
  const inRow = event.target.closest?.("[data-rows]");
  if (inRow && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    return step(event.key === "ArrowDown" ? 1 : -1);
  }
  if (!keysOn() || typing(event.target)) return;
  const does = {
    j: () => step(1),
    k: () => step(-1),
    "/": () => one("[data-search]")?.focus(),
    v: () => one("[data-slider]")?.focus(),
    w: () => { if (!one("[data-rows]")) location.href = "/"; },
    "?": () => one("#help")?.showModal(),
  }[event.key];
  if (does) {
    event.preventDefault();
    does();
  }
}

function setUpKeys() {
  document.addEventListener("keydown", onKey);
  for (const button of every("[data-opens]")) {
    button.hidden = false;
    button.addEventListener("click", () => one(`#${button.dataset.opens}`).showModal());
  }
  const on = one("#keys-on");
  if (on) {
    on.checked = keysOn();
    on.addEventListener("change", () => localStorage.setItem("keys", on.checked ? "on" : "off"));
  }
}

// -- the CT -----------------------------------------------------------------------------------------------------

const AHEAD = 12, AT_ONCE = 4, KEPT = 400;

class Viewer {
  constructor(root) {
    this.base = root.dataset.viewer;
    this.root = root;
    this.stage = one("[data-stage]", root);
    this.slider = one("[data-slider]", root);
    this.output = one("[data-output]", root);
    this.sentence = one("[data-sentence]", root);
    this.paths = every(".outline", root);
    this.count = Number(this.slider.max);
    this.number = this.wanted = Number(this.slider.value);
    this.pictures = new Map();
    this.loading = 0;
    this.direction = 1;
    every("[data-without-script]", root).forEach((element) => element.remove());
    this.start();
  }

  async start() {
    const answer = await fetch(`${this.base}/slices.json`);
    if (!answer.ok) return;
    this.facts = await answer.json();
    every("[data-with-script]", this.root).forEach((element) => { element.hidden = false; });
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.grab(event));
    for (const radio of every("[name=window]", this.root)) radio.addEventListener("change", () => this.show());
    one("[data-contour]", this.root)?.addEventListener("change", () => this.draw());
    one("[data-largest]", this.root)?.addEventListener("click", (event) => {
      event.preventDefault();
      this.go(Number(event.currentTarget.dataset.largest));
    });
    one("form", this.root).addEventListener("submit", (event) => event.preventDefault());
    this.root.dataset.ready = "yes";
    this.fill();
  }

  get window() { return one("[name=window]:checked", this.root).value; }

  get up() { return this.facts.headLast ? 1 : -1; } // one slice towards the head

  address(number) { return `${this.base}/slices/${number}.png?window=${this.window}`; }

  go(number) {
    const next = Math.min(Math.max(number, 1), this.count);
    if (next === this.wanted) return;
    this.direction = Math.sign(next - this.wanted);
    this.wanted = next;
    this.slider.value = String(next);
    this.show();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const far = this.up > 0 ? this.count : 1, near = this.up > 0 ? 1 : this.count;
    const moves = {
      ArrowUp: this.wanted + this.up, ArrowDown: this.wanted - this.up,
      ArrowRight: this.wanted + 1, ArrowLeft: this.wanted - 1,
      PageUp: this.wanted + 10 * this.up, PageDown: this.wanted - 10 * this.up,
      Home: far, End: near,
    };
    if (event.target.matches("[type=radio]") && event.key.startsWith("Arrow")) return;
    const press = { c: "[data-contour]", l: "[data-largest]", 1: "[value=lung]", 2: "[value=soft]", 3: "[value=bone]" };
    if (event.key in moves) this.go(moves[event.key]);
    else if (keysOn() && event.key in press) one(press[event.key], this.root)?.click();
    else return;
    event.preventDefault();
  }

  wheel(event) {
    if (event.ctrlKey || !event.deltaY) return; // that is a zoom of the page
    event.preventDefault();
    this.rolled = (this.rolled || 0) + (event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY);
    const steps = Math.trunc(this.rolled);
    if (!steps) return;
    this.rolled -= steps;
    this.go(this.wanted - steps * this.up);
  }

  grab(event) { // a drag to the side scrolls; up and down stays with the page
    if (event.button !== 0) return;
    const from = event.clientX, first = this.wanted;
    const move = (moved) => this.go(first + Math.round((moved.clientX - from) / 6));
    const end = () => {
      this.stage.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) this.stage.removeEventListener(name, end);
    };
    this.stage.setPointerCapture(event.pointerId);
    this.stage.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) this.stage.addEventListener(name, end);
  }

  picture(number) { // a promise of the loaded picture, kept while there is room
    const address = this.address(number);
    if (!this.pictures.has(address)) {
      const picture = new Image();
      picture.draggable = false;
      picture.src = address;
      picture.ready = picture.decode().then(() => picture, () => null);
      this.pictures.set(address, picture);
      if (this.pictures.size > KEPT) this.pictures.delete(this.pictures.keys().next().value);
    }
    return this.pictures.get(address);
  }

  async show() {
    const number = this.wanted, picture = this.picture(number), address = this.address(number);
    const loaded = await picture.ready;
    if (number !== this.wanted || address !== this.address(number)) return; // already somewhere else
    this.number = number;
    if (loaded) {
      this.hush();
      const before = one("img", this.stage);
      loaded.alt = `CT slice ${number}${this.facts.contours[number - 1] ? " with the contour" : ""}`;
      if (before && before !== loaded) before.replaceWith(loaded);
      else if (!before) this.stage.prepend(loaded);
    } else {
      this.pictures.delete(address);
      await this.say(address);
    }
    this.draw();
    this.fill();
  }

  async say(address) { // why there is no picture
    const answer = await fetch(address).catch(() => null);
    const text = answer && answer.status === 422 ? await answer.text() : "This slice cannot be loaded just now.";
    one("img", this.stage)?.remove();
    this.sentence.textContent = text;
    this.sentence.hidden = false;
  }

  hush() { this.sentence.hidden = true; }

  draw() { // number, place and outline change together with the picture, never before it
    const outline = this.facts.contours[this.number - 1] || "", z = this.facts.z[this.number - 1];
    const on = one("[data-contour]", this.root)?.checked ?? true;
    for (const path of this.paths) path.setAttribute("d", on ? outline : "");
    const place = z === null ? "" : `, z ${z.toFixed(1)} mm`;
    this.output.textContent = `Slice ${this.number} of ${this.count}${place}${outline ? ", contour" : ""}`.replace("-", "−");
    this.slider.setAttribute("aria-valuetext", this.output.textContent);
    this.stage.dataset.number = String(this.number);
  }

  async fill() { // load what comes next in the direction of travel, some at a time
    const around = [];
    for (let far = 1; far <= AHEAD; far += 1) around.push(this.wanted + far * this.direction);
    for (let far = 1; far <= AHEAD / 3; far += 1) around.push(this.wanted - far * this.direction);
    for (const number of around) {
      if (this.loading >= AT_ONCE) return;
      if (number < 1 || number > this.count || this.pictures.has(this.address(number))) continue;
      this.loading += 1;
      this.picture(number).ready.then((loaded) => {
        if (!loaded) this.pictures.delete(this.address(number));
        this.loading -= 1;
        if (loaded) this.fill();
      });
    }
  }
}

// -- start ------------------------------------------------------------------------------------------------------

setUpKeys();
for (const root of every("[data-viewer]")) {
  const viewer = new Viewer(root);
  root.viewer = viewer;
}
if (document.body.dataset.liveSource) new Live(document.body.dataset.liveSource, one("#live"));
setInterval(ages, 30000);
