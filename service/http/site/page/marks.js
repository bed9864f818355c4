// The field marks of an answer: in a sentence, as a list to point at, and as numbered places on the photo.

import { wholePercent } from "./numbers.js";

const NEAR = 0.08; // places nearer than this share of the photo's sides stand in a row: numbers of a phone's photo are as wide
const RIGHT = 0.6; // from this share of the width on, a row runs to the left: it would end beyond the photo

const CLEAR = 1.5; // evidence from here on is called more than chance

const isUnknown = (value) => value === null || value === undefined;

const isElsewhere = (mark) => Boolean(mark.at) && !isUnknown(mark.evidence) && mark.evidence < 1;

const share = (value) => (isUnknown(value) ? "unknown" : wholePercent(value));

const listed = (marks) => marks.map((mark) => mark.name).join(", ");

/**
 * What is seen, in words: the answer to "what is it?" or to "why this and not that?".
 *
 * Only marks that lie where the decision looked stand as its reasons; the others are named apart.
 */
export function sentence({ marks, target, versus }) {
  const placed = marks.filter((mark) => mark.at);
  const reasons = placed.filter((mark) => mark.evidence >= 1);
  const elsewhere = placed.filter((mark) => isElsewhere(mark));
  const unexplained = placed.filter((mark) => isUnknown(mark.evidence));
  const nowhere = marks.filter((mark) => !mark.at);
  const said = [];
  if (reasons.length) {
    const names = listed(reasons);
    const words = names.charAt(0).toLocaleUpperCase() + names.slice(1);
    said.push(versus ? `${words}; ${target.label} rather than ${versus.label}.` : `${words}.`);
  } else if (!marks.length) {
    said.push(versus ? `No field mark seen here tells ${target.label} from ${versus.label}.` : `No field mark of ${target.label} is seen.`);
  }
  const seen = reasons.length ? "Seen too" : "Seen";
  if (elsewhere.length) said.push(`${seen}, but not where the decision looked: ${listed(elsewhere)}.`);
  // No place in the photo speaks for the class: there is none where the decision could have looked.
  if (unexplained.length) said.push(`${seen}: ${listed(unexplained)}.`);
  if (nowhere.length) said.push(`${seen}, in a place that is not known: ${listed(nowhere)}.`);
  return said.join(" ");
}

/** What is missing, in words; empty where nothing is. */
export function missingWords({ missing, target, versus }) {
  if (!missing?.length) return "";
  const against = versus ? `, and less so of ${versus.label}` : "";
  const names = missing.map((mark) => `${mark.name} (${share(mark.typical)})`).join(", ");
  return `Not seen, though typical of ${target.label}${against}: ${names}.`;
}

/** How surely a mark is seen, and how many observers see it on the class. */
export function shares(mark, { versus }) {
  const against = versus ? ` (${versus.label} ${share(mark.typical_versus)})` : "";
  return `seen ${share(mark.seen)}, typical ${share(mark.typical)}${against}`;
}

/** Whether the decision looked where the mark is, in plain words. */
export function evidenceWords(mark) {
  if (!mark.at) return "its place is not known";
  if (isUnknown(mark.evidence)) return "";
  if (isElsewhere(mark)) return "seen, but not where the decision looked";
  if (mark.evidence < CLEAR) return "the decision looked here, but hardly more than elsewhere";
  return `the decision looked here, ${Number(mark.evidence.toPrecision(2))} times as much as by chance`;
}

/** Return the list's entries; `point(name, on)` and `pin(name)` are called as people point and pick. */
export function entries(result, pinned, element, { point, pin }) {
  return result.marks.map((mark, index) => {
    const words = element("span", { className: "what" }, element("span", { className: "name", textContent: mark.name }));
    words.append(element("span", { className: "how", textContent: shares(mark, result) }));
    const evidence = evidenceWords(mark);
    if (evidence) words.append(element("span", { className: isElsewhere(mark) ? "how weak" : "how", textContent: evidence }));
    const number = element("span", { className: "number", textContent: String(index + 1), ariaHidden: "true" });
    const button = element("button", { type: "button" }, number, words);
    button.dataset.mark = mark.name;
    button.setAttribute("aria-pressed", String(mark.name === pinned));
    // A finger that touches also "enters": for it the click alone counts.
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(mark.name, true));
    button.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(mark.name, false));
    button.addEventListener("focus", () => button.matches(":focus-visible") && point(mark.name, true));
    button.addEventListener("blur", () => point(mark.name, false));
    button.addEventListener("click", () => pin(mark.name));
    button.addEventListener("keydown", (event) => event.key === "Escape" && pin(null));
    return element("li", {}, button);
  });
}

/** Return the numbered places on the photo; marks of one part share a place, and their numbers stand in a row. */
export function places({ marks, width, height }, element) {
  const drawn = [];
  return (marks ?? []).flatMap((mark, index) => {
    if (!mark.at) return [];
    const here = [mark.at[0] / width, mark.at[1] / height];
    // A row starts at its first mark: places that differ a little, each moved along, would hide each other.
    const first = drawn.find(([left, top]) => Math.hypot(here[0] - left, here[1] - top) < NEAR) ?? here;
    const before = drawn.filter((one) => one === first).length;
    drawn.push(first);
    const [x, y] = first;
    const place = element("span", { className: "number", textContent: String(index + 1) });
    place.dataset.mark = mark.name;
    place.style.left = `${100 * x}%`;
    place.style.top = `${100 * y}%`;
    place.style.setProperty("--row", String(x > RIGHT ? -before : before));
    return [place];
  });
}
