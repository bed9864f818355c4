// The page of a running service: photos in, class and maps out. No library; talks to /explain, /classify, /models and /feedback only.
// All addresses are relative, so that the page works behind a path prefix.

import * as feedback from "./feedback.js";
import { connect, drawLayer, showOpacity, showValue, view } from "./layers.js";
import { entries, missingWords, places, sentence } from "./marks.js";
import { percent } from "./numbers.js";
import { tiles } from "./plates.js";
import { call, isPassing, Problem, similar } from "./requests.js";
import { csv, curl, json } from "./results.js";
import { prepared } from "./shrink.js";
import { COVERAGE, kicker, shortList, twoToContrast } from "./verdict.js";
import { zoomable } from "./zoom.js";

const LAYER_SIDE = 896; // longer side of the requested maps, pixels: enough for the screen, cheap to send
const AT_ONCE = 2; // photos under way at the same time
const MARKS = 5; // most field marks of a photo

const $ = (id) => document.getElementById(id);
// {file, url, question, result, problem, controller, pinned: name of the mark whose map stays, sent: what is sent of it
// with a word on it, answered: the question of the result, options: what the controls said then, typed and refused: of
// the last question, retry: seconds until a busy service is asked again}
const photos = [];
let current = null;
let models = []; // as the service lists them
let model = null; // that answers; the one picked, else the service's choice
let labels = [];
let hasMarks = false; // whether the model names field marks
let hasSets = false; // whether it can give a short list of classes
let among = []; // the only classes that are possible; none: all are
let collectsFeedback = false;
let pointed = null; // name of the mark under the pointer or the focus
let running = 0;
let loaded; // settles once the model is known

// ── talking to the service ──────────────────────────────────────────────────────────────────────────────────────────

// What the controls say beside the question; an empty one is left to the service.
function options() {
  const [name, version] = $("model-pick").value ? JSON.parse($("model-pick").value) : [];
  const maps = { colormap: $("colormap").value, layer: $("layer-pick").value };
  const said = { ...maps, model: name, version, prior: $("prior").value, among };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value?.length));
}

function queryOf(question, extra) {
  const query = new URLSearchParams();
  const given = { ...question, ...options(), ...extra };
  for (const [name, value] of Object.entries(given)) for (const one of [value].flat()) if (one !== "") query.append(name, one);
  return query;
}

async function explainRequest(photo, extra, accept) {
  const query = queryOf(photo.question, extra);
  photo.sent ??= prepared(photo.file, photo.url);
  const { file, words } = await photo.sent;
  photo.words = words;
  const body = new FormData();
  body.append("file", file, photo.file.name || "pasted");
  const { signal } = photo.controller;
  signal.throwIfAborted();
  return call(`explain?${query}`, { method: "POST", body, signal, waiting: (seconds) => showWait(photo, seconds) }, accept);
}

async function loadModel() {
  try {
    const answer = await (await call("models", {}, "application/json")).json();
    models = answer.models;
    collectsFeedback = answer.feedback === true;
    const names = models.map((one) => new Option(`${one.name}, version ${one.version}`, JSON.stringify([one.name, one.version])));
    const picked = $("model-pick").value;
    $("model-pick").replaceChildren(new Option("the service's choice", ""), ...names);
    $("model-pick").value = names.some((one) => one.value === picked) ? picked : "";
    $("model-box").hidden = models.length < 2;
    adopt(models.find((one) => $("model-pick").value === JSON.stringify([one.name, one.version])) ?? models[0]);
    showPlates().catch(() => {}); // the page works without them
  } catch (error) {
    if (error instanceof Problem) showProblem(error);
  }
}

// Show what this model can do.
function adopt(one) {
  model = one;
  labels = model.labels;
  among = among.filter((word) => isKnown(word));
  $("labels").replaceChildren(...labels.map((label) => new Option(label, label)));
  $("model").textContent = `${model.name} version ${model.version} · ${labels.length} classes`;
  $("knows").textContent =
    (model.novelty
      ? `The model knows ${labels.length} classes. It says where a picture is like none of them, and names the nearest. `
      : `The model knows ${labels.length} classes, and gives one of them to any picture, even of something else. `) +
    (model.licence ? `Its weights: ${model.licence}.` : "");
  $("view-attention").hidden = model.has_attention === false;
  hasMarks = Boolean(model.marks?.length);
  hasSets = model.sets === true;
  $("about-marks").hidden = !hasMarks;
  const layers = model.layers.map(({ index, name }) => new Option(index ? name : `${name} (last)`, index ? name : ""));
  $("layer-pick").replaceChildren(...layers);
  $("layer-box").hidden = layers.length < 2;
  const priors = model.priors.map((name) => new Option(name, name));
  const prior = $("prior").value;
  $("prior").replaceChildren(new Option("all alike", ""), ...priors);
  $("prior").value = model.priors.includes(prior) ? prior : "";
  $("prior-box").hidden = !priors.length;
}

// Another model than the one that was listed first may answer: one is the operator's default, or was put in since.
async function adoptAnswering({ name, version }) {
  const isIt = (one) => one.name === name && String(one.version) === String(version);
  if (!model || isIt(model)) return;
  if (!models.some(isIt)) await loadModel();
  const found = models.find(isIt);
  if (found && !isIt(model)) adopt(found);
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
  const first = photos.length;
  for (const file of files) {
    const photo = { file, url: URL.createObjectURL(file), question: { target: "rank:1", versus: "" }, waiting: file.size > 0 };
    const name = file.name ? `“${file.name}”` : "It";
    if (!file.size) photo.problem = new Problem({ title: "The file is empty", detail: `${name} holds no bytes, so there is no photo in it.` }, 400);
    photos.push(photo);
  }
  if (photos.length === first) return;
  document.body.classList.add("has-photos");
  select(photos[first]);
  drawStrip();
  next();
}

function remove(photo) {
  const place = photos.indexOf(photo);
  photos.splice(place, 1);
  photo.waiting = false;
  photo.controller?.abort();
  for (const url of new Set([photo.url, photo.shown])) if (url) URL.revokeObjectURL(url);
  const name = photo.file.name || "The photo";
  if (photos.length) {
    select(photos[Math.min(place, photos.length - 1)]);
    drawStrip();
    ($("strip").children[photos.indexOf(current)]?.firstChild ?? $("remove")).focus();
  } else {
    current = null;
    document.body.classList.remove("has-photos");
    $("files").focus();
    for (const id of ["result", "tools", "strip", "problem"]) $(id).hidden = true;
  }
  $("live").textContent = `${name} is removed.`;
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
  photo.problem = photo.refused = null;
  running += 1;
  if (photo === current) draw();
  try {
    await loaded;
    controller.signal.throwIfAborted(); // another question came meanwhile, and its run asks for both
    const asked = { ...photo.question };
    const said = options();
    const response = await explainInFull(photo);
    const result = await response.json();
    controller.signal.throwIfAborted();
    photo.result = result;
    photo.timing = response.headers.get("Server-Timing") || "";
    photo.answered = asked;
    photo.options = said;
    photo.typed = null;
    await adoptAnswering(photo.result.model);
  } catch (error) {
    if (error.name !== "AbortError") fail(photo, error, controller);
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

// A question that cannot be answered leaves the photo the answer that it has.
function fail(photo, error, controller) {
  if (photo.controller !== controller) return;
  if (photo.result && error.status === 422) {
    photo.refused = refusal(error, photo.typed);
    photo.question = { ...photo.answered };
  } else photo.problem = error;
}

const isKnown = (word) => labels.some((label) => label.toLowerCase() === word.toLowerCase());

const unknownWords = (words) => `No class is called ${words.map((word) => `“${word}”`).join(" or ")}.`;

function refusal(error, typed) {
  if (error.document?.code !== "unknown_class" || !typed) return error.message + similar(error);
  const unknown = [typed.target, typed.versus].filter((word) => word && !isKnown(word));
  return unknownWords(unknown) + similar(error);
}

function showWait(photo, seconds) {
  const first = !photo.retry && seconds;
  photo.retry = seconds;
  if (photo !== current) return;
  $("wait").hidden = !seconds;
  $("wait").textContent = seconds ? `The service is busy; trying again in ${seconds} s.` : "";
  if (first) $("live").textContent = $("wait").textContent;
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

function ask(question, typed = null) {
  if (!current) return;
  if (!current.file.size) return;
  current.question = { ...current.question, ...question };
  current.typed = typed;
  if (question.target) current.pinned = pointed = null;
  current.waiting = true;
  run(current);
}

// All photos are asked about anew: another model, or another prior.
function askAll() {
  $("together").hidden = true;
  for (const photo of photos) {
    if (!photo.file.size) continue;
    photo.question = { target: "rank:1", versus: "" };
    photo.typed = photo.pinned = null;
    photo.waiting = true;
  }
  if (current?.waiting) run(current);
  next();
}

function select(photo) {
  current = photo;
  pointed = null;
  feedback.close();
  showPhoto(photo);
  draw();
  const changed = photo.result && JSON.stringify(photo.options) !== JSON.stringify(options());
  if (changed && !photo.busy) ask({}); // colours or layer were changed while another was shown
}

async function showPhoto(photo) {
  const image = $("photo");
  image.alt = photo.file.name ? `Your photo ${photo.file.name}` : "Your photo";
  image.onload = () => fitStage(image.naturalWidth, image.naturalHeight);
  image.onerror = () => showServersView(photo);
  image.src = $("photo-beside").src = photo.shown || photo.url;
  zoom.reset();
}

// Small photos are enlarged, tall ones end above the fold.
function fitStage(width, height) {
  $("stage").style.setProperty("--ratio", width / height);
}

// Browsers cannot show every format the service reads (TIFF, HEIC): then the service's own picture stands in.
async function showServersView(photo) {
  if (photo.shown || photo.problem || !photo.file.size) return;
  photo.shown = photo.url;
  try {
    const request = { ...photo, question: { target: "rank:1" }, controller: new AbortController() };
    const response = await explainRequest(request, { view: "overlay", opacity: 0, size: LAYER_SIDE }, "image/webp");
    photo.shown = URL.createObjectURL(await response.blob());
    if (photo === current) $("photo").src = $("photo-beside").src = photo.shown;
    drawStrip();
  } catch {
    // The answer describes the error.
  }
}

// ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

let drawn = null;
function draw() {
  const { result, problem, busy, retry } = current;
  $("tools").hidden = false;
  $("individual").hidden = photos.length < 2;
  if (current !== drawn) $("together").hidden = $("command-box").hidden = true; // they are of what was shown before
  drawn = current;
  for (const id of ["curl", "csv", "json"]) $(id).disabled = id === "curl" ? !result : !photos.some((one) => one.result || one.problem);
  showWait(current, busy ? retry : 0);
  $("result").hidden = !result && Boolean(problem);
  $("busy").hidden = !busy;
  $("result").setAttribute("aria-busy", String(Boolean(busy)));
  if (problem) showProblem(problem);
  else $("problem").hidden = true;
  drawAnswer(result);
  $("photo-words").textContent = (result && current.words) || "";
  $("photo-words").hidden = !$("photo-words").textContent;
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
  const { typed, refused } = current; // a word that is not understood stays, to be corrected
  $("target").value = typed ? typed.target : result.target.label;
  $("versus").value = typed ? typed.versus : result.versus?.label ?? "";
  $("versus-note").textContent = refused ?? "";
  $("versus-note").hidden = !refused;
  for (const id of ["target", "versus"]) $(id).setAttribute("aria-invalid", String(Boolean(refused && typed?.[id])));
  $("versus").placeholder = rival(result, result.target.label);
  $("clear").hidden = !result.versus;
  const time = current.timing.match(/total;dur=([\d.]+)/) || current.timing.match(/infer;dur=([\d.]+)/);
  $("facts").textContent =
    `${current.file.name ? `${current.file.name} · ` : ""}${result.width} × ${result.height} pixels · ` +
    `model ${result.model.name} version ${result.model.version} · layer ${result.layer}${result.prior ? ` · ${result.prior}` : ""}` +
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
    const name = element("span", { textContent: photo.file.name, className: "file" });
    const button = element("button", { type: "button" }, picture, label, name);
    button.setAttribute("aria-current", String(photo === current));
    button.addEventListener("click", () => {
      select(photo);
      drawStrip();
      $("strip").children[photos.indexOf(photo)].firstChild.focus();
    });
    button.addEventListener("keydown", (event) => event.key === "Delete" && remove(photo));
    return element("li", {}, button);
  }));
}

function showProblem(problem) {
  const { document: details, status } = problem;
  $("problem").hidden = false;
  $("problem-title").textContent = details?.title || "Something went wrong";
  const id = details?.request_id && status >= 500 ? ` (request ${details.request_id})` : "";
  $("problem-detail").textContent = problem.message + similar(problem) + id;
  $("key-form").hidden = status !== 401;
  $("again").hidden = !isPassing(problem) || !current;
}

function announce(photo) {
  const { result, problem, refused } = photo;
  if (!result || problem || refused) return; // an alert speaks for itself
  if (!result) return;
  const best = result.predictions[0];
  const unlike = result.known === false ? $("kicker").textContent : "";
  const words = [unlike, `${best.label}, ${percent(best.probability)}.`, $("short-words").textContent, $("words").textContent, `${$("caption").textContent}.`];
  $("live").textContent = [...words, $("note").textContent].filter(Boolean).join(" ");
}

// ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────────

for (const id of ["files", "camera"]) {
  $(id).addEventListener("change", (event) => {
    add([...event.target.files]); // emptying the field empties its own list
    event.target.value = "";
  });
}
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
  showOpacity();
});
for (const id of ["colormap", "layer-pick"]) $(id).addEventListener("change", () => ask({}));
$("prior").addEventListener("change", askAll);
$("model-pick").addEventListener("change", () => {
  const picked = models.find((one) => $("model-pick").value === JSON.stringify([one.name, one.version]));
  adopt(picked ?? models[0]);
  askAll();
});
connect({
  current: () => current,
  pointed: () => pointed,
  request: (photo, extra) => explainRequest(photo, { size: LAYER_SIDE, ...extra }, "application/json"),
  fail: (error) => error instanceof Problem && showProblem(error),
});
$("among-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = [...new Set($("among").value.split("\n").map((word) => word.trim()).filter(Boolean))];
  const unknown = words.filter((word) => !isKnown(word));
  $("among-note").hidden = !unknown.length;
  $("among-note").textContent = unknown.length ? unknownWords(unknown) : "";
  if (unknown.length) return;
  among = words;
  askAll();
});
$("individual").addEventListener("click", async () => {
  const body = new FormData();
  const query = queryOf({ individual: true, top_k: 1 }, {});
  for (const name of ["colormap", "layer"]) query.delete(name);
  $("individual").disabled = true;
  try {
    for (const photo of photos.filter((one) => one.file.size)) {
      photo.sent ??= prepared(photo.file, photo.url);
      body.append("file", (await photo.sent).file, photo.file.name || "pasted");
    }
    const answer = await (await call(`classify?${query}`, { method: "POST", body }, "application/json")).json();
    const [{ label, probability }] = answer.predictions;
    const unlike = answer.known === false ? `like none of the ${labels.length} classes; nearest: ` : "";
    $("together").textContent = `As one individual, ${answer.photos} photos together: ${unlike}${label}, ${percent(probability)}.`;
    $("together").hidden = false;
  } catch (error) {
    if (error instanceof Problem) showProblem(error);
  } finally {
    $("individual").disabled = false;
  }
});
const zoom = zoomable($("stage"), showValue);
$("zoom-in").addEventListener("click", () => zoom.by(1.5));
$("zoom-out").addEventListener("click", () => zoom.by(1 / 1.5));
$("zoom-reset").addEventListener("click", () => zoom.reset());
$("versus-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [target, versus] = [$("target").value.trim(), $("versus").value.trim()];
  document.querySelector("input[value=gradcam]").checked = true;
  if (!current?.result) return;
  const other = versus || rival(current.result, target || current.result.predictions[0].label);
  ask({ target: target || "rank:1", versus: other }, { target, versus: other });
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
function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob) });
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
async function save(button, extra) {
  const photo = current;
  button.disabled = true;
  try {
    const response = await explainRequest(photo, extra, "image/png");
    download(await response.blob(), `fieldmark-${photo.result.target.label.replace(/\W+/g, "-")}.png`);
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
$("remove").addEventListener("click", () => remove(current));
$("csv").addEventListener("click", () => download(new Blob([csv(photos)], { type: "text/csv" }), "fieldmark.csv"));
$("json").addEventListener("click", () => download(new Blob([json(photos)], { type: "application/json" }), "fieldmark.json"));
$("curl").addEventListener("click", async () => {
  const extra = { top_k: 5, ...(hasMarks ? { marks: MARKS } : {}), ...(hasSets ? { coverage: COVERAGE } : {}) };
  const address = new URL(`explain?${queryOf(current.question, extra)}`, document.baseURI);
  const command = curl(address.href, current.file.name || "photo.png", sessionStorage.getItem("fieldmark-key"));
  $("command").value = command;
  $("command-box").hidden = false;
  try {
    await navigator.clipboard.writeText(command); // only where the page came over HTTPS or from this computer
    $("command-words").textContent = "Copied. Run it where the photo lies:";
  } catch {
    $("command-words").textContent = "Copy this, and run it where the photo lies:";
    $("command").select();
  }
  $("live").textContent = $("command-words").textContent;
});
$("again").addEventListener("click", () => {
  if (!current) return;
  current.waiting = true;
  run(current);
});
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
