// "Right" and "Wrong, it is …": what people say of an answer, for services that collect it.

import { $ } from "./page.js";
import { similar } from "./requests.js";

/**
 * Make the form work.
 *
 * `send(said)` posts what was said and returns what was noted; `shown()` is the photo it is about, which keeps
 * `feedback`: the request it was first said of, what was noted, and what went wrong; `announce(text)` reads out.
 */
export function prepare({ send, shown, announce }) {
  async function say(label) {
    const photo = shown();
    if (!photo?.result || photo.feedback?.busy) return;
    // A photo has one last word, however often it was asked about.
    const feedback = (photo.feedback ??= { request_id: photo.result.request_id });
    feedback.busy = true;
    try {
      feedback.taken = await send({ request_id: feedback.request_id, label });
      feedback.problem = "";
    } catch (error) {
      const unknown = error.document?.code === "unknown_class";
      feedback.problem = `Not noted: ${unknown ? `no class is called “${label}”.` : error.message}${similar(error)}`;
      if (error.document?.code === "unknown_request") feedback.request_id = photo.result.request_id;
    }
    feedback.busy = false;
    if (photo !== shown()) return;
    if (!feedback.problem) close();
    draw(photo, true);
    announce($("feedback-note").textContent);
  }
  $("right").addEventListener("click", () => say(shown().result.predictions[0].label));
  $("none").addEventListener("click", () => say(null));
  $("wrong").addEventListener("click", () => {
    const open = $("correction").hidden;
    close();
    if (!open) return;
    $("correction").hidden = false;
    $("wrong").setAttribute("aria-expanded", "true");
    $("truth").focus();
  });
  $("correction").addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  $("feedback-form").addEventListener("submit", (event) => {
    event.preventDefault();
    say($("truth").value.trim());
  });
}

/** Close what was opened for another class; the keyboard returns to the button that opened it. */
export function close() {
  if ($("correction").contains(document.activeElement)) $("wrong").focus();
  $("correction").hidden = true;
  $("wrong").setAttribute("aria-expanded", "false");
  $("truth").value = "";
}

/** Show what was said of a photo, where the service collects it. */
export function draw(photo, collected) {
  $("feedback-form").hidden = !collected || !photo.result;
  const { taken, problem } = photo.feedback ?? {};
  $("right").setAttribute("aria-pressed", String(Boolean(taken?.right)));
  const noted = taken && (taken.right ? "right" : taken.label ?? "none of these classes");
  $("feedback-note").textContent = problem || (noted ? `Thank you. Noted: ${noted}.` : "");
  $("feedback-note").className = problem ? "small bad" : "small";
  $("feedback-note").hidden = !problem && !noted;
}
