// The page of a running service: photos in, class and maps out. No library; talks to /explain, /classify, /models and /feedback only.
// All addresses are relative, so that the page works behind a path prefix. Here is what people do on it.

import { connect, rival } from "./answer.js";
import * as feedback from "./feedback.js";
import * as layers from "./layers.js";
import { adopt, isKnown, known, loadModel, queryOf, unknownWords } from "./model.js";
import { percent } from "./numbers.js";
import { $, element, photos, showProblem, state } from "./page.js";
import { add, ask, askAll, explainRequest, LAYER_SIDE, MARKS, next, remove, run, select, showServersView, zoom } from "./photos.js";
import { tiles } from "./plates.js";
import { call, Problem } from "./requests.js";
import { csv, curl, json } from "./results.js";
import { prepared } from "./shrink.js";
import { COVERAGE, twoToContrast } from "./verdict.js";

connect({ ask, select, remove, showServersView });
layers.connect({
  request: (photo, extra) => explainRequest(photo, { size: LAYER_SIDE, ...extra }, "application/json"),
  fail: (error) => error instanceof Problem && showProblem(error),
});

// Photos come by a click, a camera, the clipboard or a drop.
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

// What the controls say.
$("views").addEventListener("change", () => {
  if (!state.current) return;
  state.current.pinned = null;
  layers.drawLayer();
  layers.showValue(); // none: what was read is of another map
});
$("opacity").addEventListener("input", () => {
  $("opacity-value").textContent = `${$("opacity").value}%`;
  layers.showOpacity();
});
for (const id of ["colormap", "layer-pick"]) $(id).addEventListener("change", () => ask({}));
$("prior").addEventListener("change", askAll);
$("model-pick").addEventListener("change", () => {
  const picked = known.models.find((one) => $("model-pick").value === JSON.stringify([one.name, one.version]));
  adopt(picked ?? known.models[0]);
  askAll();
});
$("among-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = [...new Set($("among").value.split("\n").map((word) => word.trim()).filter(Boolean))];
  const unknown = words.filter((word) => !isKnown(word));
  $("among-note").hidden = !unknown.length;
  $("among-note").textContent = unknown.length ? unknownWords(unknown) : "";
  if (unknown.length) return;
  known.among = words;
  askAll();
});

// What the buttons do.
$("individual").addEventListener("click", async () => {
  const body = new FormData();
  const query = queryOf({ individual: true, top_k: 1 }, {});
  for (const name of ["colormap", "layer"]) query.delete(name);
  $("individual").disabled = true;
  try {
    for (const photo of photos.filter((one) => one.file.size && !one.problem)) {
      const { file } = await prepared(photo.file, photo.url, true);
      body.append("file", file, photo.file.name || "pasted");
    }
    const answer = await (await call(`classify?${query}`, { method: "POST", body }, "application/json")).json();
    const [{ label, probability }] = answer.predictions;
    const unlike = answer.known === false ? `like none of the ${known.labels.length} classes; nearest: ` : "";
    $("together").textContent = `As one individual, ${answer.photos} photos together: ${unlike}${label}, ${percent(probability)}.`;
  } catch (error) {
    $("together").textContent = error.message; // beside the button: the problem's own place is far above it
  } finally {
    $("together").hidden = false;
    $("individual").disabled = false;
  }
});
$("zoom-in").addEventListener("click", () => zoom.by(1.5));
$("zoom-out").addEventListener("click", () => zoom.by(1 / 1.5));
$("zoom-reset").addEventListener("click", () => zoom.reset());
$("versus-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [target, versus] = [$("target").value.trim(), $("versus").value.trim()];
  document.querySelector("input[value=gradcam]").checked = true;
  if (!state.current?.result) return;
  const other = versus || rival(state.current.result, target || state.current.result.predictions[0].label);
  ask({ target: target || "rank:1", versus: other }, { target, versus: other });
});
$("clear").addEventListener("click", () => ask({ target: "rank:1", versus: "" }));
$("short-contrast").addEventListener("click", () => {
  const two = state.current?.result && twoToContrast(state.current.result);
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
  shown: () => state.current,
  announce: (text) => { $("live").textContent = text; },
});

// Drawn birds.
async function showPlates() {
  const plates = await (await call("page/plates/plates.json", {}, "application/json")).json();
  $("plates").replaceChildren(...tiles(plates, known.labels, element, takePlate));
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

// What can be taken along.
function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob) });
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function save(button, extra) {
  const photo = { ...state.current, controller: new AbortController() }; // what is asked next does not stop it
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
  const mark = state.current.pinned ? { mark: state.current.pinned } : {};
  save(event.target, { view: "panel", opacity: $("opacity").value / 100, ...mark });
});
$("save-marks").addEventListener("click", (event) => save(event.target, { view: "marks" }));
$("remove").addEventListener("click", () => remove(state.current));
$("csv").addEventListener("click", () => download(new Blob([csv(photos)], { type: "text/csv" }), "fieldmark.csv"));
$("json").addEventListener("click", () => download(new Blob([json(photos)], { type: "application/json" }), "fieldmark.json"));
$("curl").addEventListener("click", async () => {
  const extra = { top_k: 5, ...(known.hasMarks ? { marks: MARKS } : {}), ...(known.hasSets ? { coverage: COVERAGE } : {}) };
  const address = new URL(`explain?${queryOf(state.current.question, extra)}`, document.baseURI);
  const command = curl(address.href, state.current.file.name || "photo.png", sessionStorage.getItem("fieldmark-key"));
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

// When something went wrong.
$("again").addEventListener("click", () => {
  if (!state.current) return;
  state.current.waiting = true;
  run(state.current);
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!/^[\x21-\x7e]+$/.test($("key").value)) {
    $("problem-detail").textContent = "That is no key: keys are of plain Latin letters, digits and signs.";
    return;
  }
  sessionStorage.setItem("fieldmark-key", $("key").value);
  $("problem").hidden = true;
  known.loaded = loadModel();
  for (const photo of photos) if (photo.problem) photo.waiting = true;
  next();
});

// Press on the picture to see it without the map.
for (const [name, on] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["pointercancel", false]]) {
  $("stage").addEventListener(name, () => $("stage").classList.toggle("peek", on));
}

known.adopted = () => showPlates().catch(() => {}); // the page works without them
known.loaded = loadModel();
