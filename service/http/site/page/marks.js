// The field marks of an answer: in a sentence, as a list to point at, and as numbered places on the photo.

const NEAR = 0.05; // places nearer than this share of the photo's width stand in a row

const CLEAR = 1.5; // evidence from here on is called more than chance

const share = (value) => (value === null || value === undefined ? "unknown" : `${Math.round(100 * value)}%`);

const listed = (marks) => marks.map((mark) => mark.name).join(", ");

/**
 * What is seen, in words: the answer to "what is it?" or to "why this and not that?".
 *
 * Only marks that lie where the decision looked stand as its reasons; the others are named apart.
 */
export function sentence({ marks, target, versus }) {
  const reasons = marks.filter((mark) => mark.at && mark.evidence >= 1);
  const elsewhere = marks.filter((mark) => mark.at && !(mark.evidence >= 1));
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
  if (mark.evidence === null || mark.evidence === undefined) return "";
  if (mark.evidence < 1) return "seen, but not where the decision looked";
  if (mark.evidence < CLEAR) return "the decision looked here, but hardly more than elsewhere";
  return `the decision looked here, ${Number(mark.evidence.toPrecision(2))} times as much as by chance`;
}

/** Return the list's entries; `point(name, on)` and `pin(name)` are called as people point and pick. */
export function entries(result, pinned, element, { point, pin }) {
  return result.marks.map((mark, index) => {
    const words = element("span", { className: "what" }, element("span", { className: "name", textContent: mark.name }));
    words.append(element("span", { className: "how", textContent: shares(mark, result) }));
    const evidence = evidenceWords(mark);
    const isWeak = Boolean(mark.at) && mark.evidence !== null && mark.evidence < 1;
    if (evidence) words.append(element("span", { className: isWeak ? "how weak" : "how", textContent: evidence }));
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
    const [x, y] = [mark.at[0] / width, mark.at[1] / height];
    const neighbours = drawn.filter(([left, top]) => Math.hypot(x - left, y - top) < NEAR).length;
    drawn.push([x, y]);
    const place = element("span", { className: "number", textContent: String(index + 1) });
    place.dataset.mark = mark.name;
    place.style.left = `${100 * x}%`;
    place.style.top = `${100 * y}%`;
    place.style.setProperty("--row", String(neighbours));
    return [place];
  });
}
