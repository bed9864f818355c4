// The page of a running service: photos in, class and maps out. No library; talks to /explain, /models and /feedback only.
// All addresses are relative, so that the page works behind a path prefix.

import * as feedback from "./feedback.js";
import { entries, evidenceWords, missingWords, places, sentence } from "./marks.js";
import { tiles } from "./plates.js";
import { COVERAGE, kicker, shortList, twoToContrast } from "./verdict.js";

const LAYER_SIDE = 896; // longer side of the requested maps, pixels: enough for the screen, cheap to send
const AT_ONCE = 2; // photos under way at the same time
const RETRIES = 4; // of a busy service
const MARKS = 5; // most field marks of a photo

const $ = (id) => document.getElementById(id);
const photos = []; // {file, url, question, result, problem, controller, pinned: name of the mark whose map stays}
let current = null;
let labels = [];
let hasMarks = false; // whether the model names field marks
let hasSets = false; // whether it can give a short list of classes
let collectsFeedback = false;
let pointed = null; // name of the mark under the pointer or the focus
let running = 0;
let loaded; // settles once the model is known

// ── talking to the service ──────────────────────────────────────────────────────────────────────────────────────────

class Problem extends Error {
  constructor(document, status) {
    super(document.detail || document.title || `The service answered ${status}.`);
    this.document = document;
    this.status = status;
  }
}

const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

function headers(accept) {
  const key = sessionStorage.getItem("fieldmark-key");
  return key ? { Accept: accept, "X-API-Key": key } : { Accept: accept };
}

async function call(path, options, accept) {
  for (let attempt = 0; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...headers(accept), ...options.headers } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ title: "The service cannot be reached", detail: "Is it still running? Try again in a moment." }, 0);
    }
    if (response.ok) return response;
    const busy = response.status === 429 || response.status === 503;
    if (busy && attempt < (options.retries ?? RETRIES)) {
      await wait(Math.min(Number(response.headers.get("Retry-After")) || 1, 10));
      continue;
    }
    throw new Problem(await response.json().catch(() => ({})), response.status);
  }
}

function explainRequest(photo, extra, accept) {
  const { target, versus } = photo.question;
  const query = new URLSearchParams({ target, colormap: $("colormap").value, ...extra });
  if (versus) query.set("versus", versus);
  const body = new FormData();
  body.append("file", photo.file, photo.file.name || "pasted");
  return call(`explain?${query}`, { method: "POST", body, signal: photo.controller.signal }, accept);
}

async function loadModel() {
  try {
    const answer = await (await call("models", {}, "application/json")).json();
    const list = Array.isArray(answer) ? answer : answer.models;
    const model = list.find((one) => one.default) || list[0];
    labels = model.labels;
    $("labels").replaceChildren(...labels.map((label) => new Option(label, label)));
    $("model").textContent = `${model.name} · ${labels.length} classes`;
    $("knows").textContent =
      (model.novelty
        ? `The model knows ${labels.length} classes. It says where a picture is like none of them, and names the nearest. `
        : `The model knows ${labels.length} classes, and gives one of them to any picture, even of something else. `) +
      (model.licence ? `Its weights: ${model.licence}.` : "");
    $("view-attention").hidden = model.has_attention === false;
    hasMarks = Boolean(model.marks?.length);
    hasSets = model.sets === true;
    collectsFeedback = answer.feedback === true;
    $("about-marks").hidden = !hasMarks;
    showPlates().catch(() => {}); // the page works without them
  } catch (error) {
    if (error instanceof Problem) showProblem(error);
  }
}

async function showPlates() {
  const plates = await (await call("page/plates/plates.json", {}, "application/json")).json();
  $("plates").replaceChildren(...tiles(plates, labels, element, takePlate));
  $("plates-box").hidden = !$("plates").children.length;
}

async function takePlate({ picture }) {
  try {
    const drawn = await (await call(picture, {}, "image/png")).blob();
    add([new File([drawn], picture.split("/").pop(), { type: "image/png" })]);
  } catch (error) {
    if (error instanceof Problem) showProblem(error);
  }
}

// ── photos ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function add(files) {
  const images = [...files].filter((file) => file.size > 0);
  if (!images.length) return;
  const first = photos.length;
  for (const file of images) {
    photos.push({ file, url: URL.createObjectURL(file), question: { target: "rank:1", versus: "" }, waiting: true });
  }
  document.body.classList.add("has-photos");
  select(photos[first]);
  drawStrip();
  next();
}

function next() {
  while (running < AT_ONCE) {
    const photo = photos.find((one) => one === current && one.waiting) || photos.find((one) => one.waiting);
    if (!photo) return;
    run(photo);
  }
}

async function run(photo) {
  photo.waiting = false;
  photo.controller?.abort();
  const controller = new AbortController();
  photo.controller = controller;
  photo.busy = true;
  running += 1;
  if (photo === current) draw();
  try {
    await loaded;
    controller.signal.throwIfAborted(); // another question came meanwhile, and its run asks for both
    const response = await explainInFull(photo);
    photo.result = await response.json();
    photo.timing = response.headers.get("Server-Timing") || "";
    photo.problem = null;
  } catch (error) {
    if (error.name !== "AbortError") photo.problem = error;
  } finally {
    running -= 1;
    if (photo.controller === controller) photo.busy = false;
    if (photo === current) {
      draw();
      announce(photo);
    }
    drawStrip();
    next();
  }
}

async function explainInFull(photo) {
  const marks = hasMarks ? { marks: MARKS, mark_maps: true } : {};
  const sets = hasSets ? { coverage: COVERAGE } : {};
  try {
    return await explainRequest(photo, { top_k: 5, size: LAYER_SIDE, ...marks, ...sets }, "application/json");
  } catch (error) {
    const code = error.document?.code;
    if (!(marks.marks && code === "no_marks") && !(sets.coverage && code === "no_sets")) throw error;
    if (code === "no_marks") hasMarks = false; // another version of the model answers now
    else hasSets = false;
    return explainInFull(photo);
  }
}

function ask(question) {
  if (!current) return;
  current.question = { ...current.question, ...question };
  if (question.target) current.pinned = pointed = null;
  current.waiting = true;
  run(current);
}

function select(photo) {
  current = photo;
  pointed = null;
  feedback.close();
  showPhoto(photo);
  draw();
}

async function showPhoto(photo) {
  const image = $("photo");
  image.alt = photo.file.name ? `Your photo ${photo.file.name}` : "Your photo";
  image.onload = () => fitStage(image.naturalWidth, image.naturalHeight);
  image.onerror = () => showServersView(photo);
  image.src = photo.shown || photo.url;
}

// Small photos are enlarged, tall ones end above the fold.
function fitStage(width, height) {
  $("stage").style.aspectRatio = `${width} / ${height}`;
  $("stage").style.width = `min(100%, max(60vh, 18rem) * ${width / height})`;
}

// Browsers cannot show every format the service reads (TIFF, HEIC): then the service's own picture stands in.
async function showServersView(photo) {
  if (photo.shown || photo.problem) return;
  photo.shown = photo.url;
  try {
    const request = { ...photo, question: { target: "rank:1" }, controller: new AbortController() };
    const response = await explainRequest(request, { view: "overlay", opacity: 0, size: LAYER_SIDE }, "image/webp");
    photo.shown = URL.createObjectURL(await response.blob());
    if (photo === current) $("photo").src = photo.shown;
    drawStrip();
  } catch {
    // The answer describes the error.
  }
}

// ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
const number = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());
const view = () => document.querySelector("input[name=view]:checked").value;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function draw() {
  const { result, problem, busy } = current;
  $("result").hidden = !result && Boolean(problem);
  $("busy").hidden = !busy;
  $("result").setAttribute("aria-busy", String(Boolean(busy)));
  if (problem) showProblem(problem);
  else $("problem").hidden = true;
  drawAnswer(result);
  drawMarks(result);
  drawLayer();
  feedback.draw(current, collectsFeedback);
}

function drawAnswer(result) {
  for (const id of ["save", "clear"]) $(id).disabled = !result;
  if (!result) {
    $("kicker").textContent = "Looking…";
    $("kicker").classList.remove("unlike");
    $("short").hidden = true;
    $("label").textContent = "…";
    $("sure").textContent = $("facts").textContent = "";
    $("bars").replaceChildren();
    return;
  }
  const best = result.predictions[0];
  $("kicker").textContent = kicker(result, labels.length);
  $("kicker").classList.toggle("unlike", result.known === false);
  $("label").textContent = best.label;
  $("sure").textContent = `${percent(best.probability)} ${result.known === false ? "among these classes" : "sure"}`;
  $("short-words").textContent = shortList(result);
  $("short").hidden = !$("short-words").textContent;
  const two = twoToContrast(result);
  $("short-contrast").hidden = !two;
  $("short-contrast").textContent = two ? `Why ${two[0]} and not ${two[1]}?` : "";
  $("bars").replaceChildren(...result.predictions.map((one) => bar(one, result)));
  $("target").value = result.target.label;
  $("versus").value = result.versus ? result.versus.label : "";
  $("versus").placeholder = rival(result, result.target.label);
  $("clear").hidden = !result.versus;
  const time = current.timing.match(/total;dur=([\d.]+)/) || current.timing.match(/infer;dur=([\d.]+)/);
  $("facts").textContent =
    `${result.width} × ${result.height} pixels · model ${result.model.name} version ${result.model.version}` +
    (time ? ` · ${Math.round(Number(time[1]))} ms in the ${current.timing.includes("total;") ? "service" : "model"}` : "");
}

function drawMarks(result) {
  const marks = result?.marks;
  $("marks-box").hidden = !marks;
  $("save-marks").hidden = !marks;
  $("words").textContent = marks ? sentence(result) : "";
  $("words").hidden = !marks;
  $("missing").textContent = marks ? missingWords(result) : "";
  $("missing").hidden = !$("missing").textContent;
  if (!marks?.some((mark) => mark.name === pointed)) pointed = null;
  const focused = document.activeElement?.dataset?.mark;
  $("marks-title").textContent = result?.versus
    ? `What tells ${result.target.label} from ${result.versus.label}`
    : `Field marks of ${result?.target.label}`;
  $("marks").replaceChildren(...(marks ? entries(result, current.pinned, element, { point, pin }) : []));
  $("places").replaceChildren(...(marks ? places(result, element) : []));
  // The list is drawn anew; keep the keyboard where it was.
  if (focused) [...$("marks").querySelectorAll("button")].find((one) => one.dataset.mark === focused)?.focus();
}

function point(name, on) {
  if (on) pointed = name;
  else if (pointed === name) pointed = null;
  drawLayer();
}

function pin(name) {
  current.pinned = current.pinned === name ? null : name;
  if (current.pinned === null) pointed = null;
  drawLayer();
  $("live").textContent = `${$("caption").textContent}.`;
}

// The mark whose map is shown, with its map; null for none.
function shownMark(result) {
  const name = pointed ?? current.pinned;
  const index = result?.marks?.findIndex((mark) => mark.name === name) ?? -1;
  return index < 0 ? null : { ...result.marks[index], map: result.mark_maps[index] };
}

// The likeliest other class: the one most easily confused with it.
function rival(result, label) {
  return result.predictions.find((one) => one.label !== label)?.label ?? "";
}

function bar(one, result) {
  const filled = element("i");
  filled.style.transform = `scaleX(${one.probability})`;
  const share = element("span", { className: "share", textContent: percent(one.probability) });
  const button = element("button", { type: "button" }, filled, element("span", { textContent: one.label }), share);
  button.setAttribute("aria-pressed", String(!result.versus && result.target.index === one.index));
  button.addEventListener("click", () => {
    if (view() !== "gradcam") document.querySelector("input[value=gradcam]").checked = true;
    ask({ target: `class:${one.index}`, versus: "" });
    // The bars are drawn anew; keep the keyboard where it was.
    requestAnimationFrame(() => $("bars").children[result.predictions.indexOf(one)]?.firstChild.focus());
  });
  return element("li", {}, button);
}

function drawLayer() {
  const { result } = current;
  const versus = result?.versus;
  $("view-versus").hidden = !versus;
  if (!versus && view() === "gradcam_versus") document.querySelector("input[value=gradcam]").checked = true;
  const attentionButton = document.querySelector("input[value=attention]");
  attentionButton.disabled = Boolean(result) && !result.attention;
  const shown = view();
  const mark = shownMark(result);
  const map = mark ? mark.map : shown === "photo" ? null : result?.[shown];
  for (const one of [...$("marks").querySelectorAll("button"), ...$("places").children]) {
    one.classList.toggle("shown", one.dataset.mark === mark?.name);
    if (one.type) one.setAttribute("aria-pressed", String(one.dataset.mark === current.pinned));
  }
  $("layer").hidden = !map;
  $("scale").hidden = !map;
  if (map) {
    $("layer").src = map.png;
    $("layer").style.opacity = $("opacity").value / 100;
    $("scale-min").textContent = number(map.min);
    $("scale-max").textContent = number(map.max);
    $("ramp").dataset.map = $("colormap").value;
  }
  $("caption").textContent = mark ? describeMark(mark) : result ? describe(shown, result) : "";
  const note = mark ? null : map?.note; // the caption says what a mark's map does not show
  $("note").textContent = note ? explainNote(note, shown, result) : "";
  $("note").hidden = !note;
}

function describeMark(mark) {
  const evidence = evidenceWords(mark);
  return `Where “${mark.name}” is read${evidence ? `: ${evidence}` : ""}`;
}

function describe(shown, { target, versus }) {
  if (shown === "photo") return "Your photo";
  if (shown === "attention") return "Where the network looks before it decides";
  if (!versus) return `What speaks for ${target.label} (${percent(target.probability)})`;
  const [this_, that] = shown === "gradcam" ? [target, versus] : [versus, target];
  return `What speaks for ${this_.label} rather than ${that.label}`;
}

function explainNote(note, shown, { target, versus }) {
  if (note.startsWith("flat")) return "The attention is flat: the network looks everywhere alike, so the colours mean little.";
  const what = versus ? (shown === "gradcam" ? `${target.label} rather than ${versus.label}` : `${versus.label} rather than ${target.label}`) : target.label;
  return `No positive evidence: nothing in this picture speaks for ${what}.`;
}

function drawStrip() {
  $("strip").hidden = photos.length < 2;
  if (photos.length < 2) return;
  $("strip").replaceChildren(...photos.map((photo) => {
    const picture = element("img", { src: photo.shown || photo.url, alt: "" });
    picture.onerror = () => {
      picture.replaceWith(element("div", { className: "blank" }));
      if (photo.result) showServersView(photo);
    };
    const best = photo.result?.predictions[0];
    const unlike = photo.result?.known === false;
    const text = photo.problem ? "Problem" : unlike ? "Like none" : best ? `${best.label} ${percent(best.probability)}` : "…";
    const label = element("span", { textContent: text, className: photo.problem ? "bad" : "" });
    const button = element("button", { type: "button", title: photo.file.name }, picture, label);
    button.setAttribute("aria-current", String(photo === current));
    button.addEventListener("click", () => {
      select(photo);
      drawStrip();
      $("strip").children[photos.indexOf(photo)].firstChild.focus();
    });
    return element("li", {}, button);
  }));
}

function showProblem(problem) {
  const { document: details, status } = problem;
  $("problem").hidden = false;
  $("problem-title").textContent = details?.title || "Something went wrong";
  const nearest = details?.nearest?.length ? ` Similar: ${details.nearest.join(", ")}.` : "";
  const id = details?.request_id && status >= 500 ? ` (request ${details.request_id})` : "";
  $("problem-detail").textContent = problem.message + nearest + id;
  $("key-form").hidden = status !== 401;
}

function announce(photo) {
  const { result, problem } = photo;
  if (problem) return; // the alert speaks for itself
  if (!result) return;
  const best = result.predictions[0];
  const unlike = result.known === false ? $("kicker").textContent : "";
  const words = [unlike, `${best.label}, ${percent(best.probability)}.`, $("short-words").textContent, $("words").textContent, `${$("caption").textContent}.`];
  $("live").textContent = [...words, $("note").textContent].filter(Boolean).join(" ");
}

// ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────────

$("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add(event.clipboardData.files);
});
let depth = 0; // dragenter and dragleave fire for every element on the way
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    depth = name === "drop" ? 0 : depth + (name === "dragenter") - (name === "dragleave");
    document.body.classList.toggle("dragging", depth > 0);
    if (name === "drop") add(event.dataTransfer.files);
  });
}
$("views").addEventListener("change", () => {
  if (current) current.pinned = null;
  if (current) drawLayer();
});
$("opacity").addEventListener("input", () => {
  $("opacity-value").textContent = `${$("opacity").value}%`;
  $("layer").style.opacity = $("opacity").value / 100;
});
$("colormap").addEventListener("change", () => ask({}));
$("versus-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [target, versus] = [$("target").value.trim(), $("versus").value.trim()];
  document.querySelector("input[value=gradcam]").checked = true;
  if (!current?.result) return;
  ask({ target: target || "rank:1", versus: versus || rival(current.result, target || current.result.predictions[0].label) });
});
$("short-contrast").addEventListener("click", () => {
  const two = current?.result && twoToContrast(current.result);
  if (!two) return;
  document.querySelector("input[value=gradcam]").checked = true;
  ask({ target: two[0], versus: two[1] });
  $("target").focus(); // the button is gone with the answer
});
feedback.prepare({
  send: async (said) => {
    const options = { method: "POST", body: JSON.stringify(said), headers: { "Content-Type": "application/json" }, retries: 0 };
    return (await call("feedback", options, "application/json")).json();
  },
  shown: () => current,
  announce: (text) => { $("live").textContent = text; },
});
$("clear").addEventListener("click", () => ask({ target: "rank:1", versus: "" }));
async function save(button, options) {
  const photo = current;
  button.disabled = true;
  try {
    const response = await explainRequest(photo, options, "image/png");
    const link = element("a", { href: URL.createObjectURL(await response.blob()) });
    link.download = `fieldmark-${photo.result.target.label.replace(/\W+/g, "-")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    showProblem(error);
  } finally {
    button.disabled = false;
  }
}
$("save").addEventListener("click", (event) => {
  const mark = current.pinned ? { mark: current.pinned } : {};
  save(event.target, { view: "panel", opacity: $("opacity").value / 100, ...mark });
});
$("save-marks").addEventListener("click", (event) => save(event.target, { view: "marks" }));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("fieldmark-key", $("key").value);
  $("problem").hidden = true;
  loaded = loadModel();
  for (const photo of photos) if (photo.problem) photo.waiting = true;
  next();
});
// Press on the picture to see it without the map.
for (const [name, on] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["pointercancel", false]]) {
  $("stage").addEventListener(name, () => $("stage").classList.toggle("peek", on));
}

loaded = loadModel();
