// What an answer decides, in words: whether the photo is like those of any class, and the classes it may be.

const MOST_NAMED = 5; // classes of a short list

export const COVERAGE = 0.9; // of the short list that is asked for

/** What stands before the first class: how sure the model is of it, or that the photo is like none. */
export function kicker({ known, predictions }, numClasses) {
  if (known === false) return `Like none of the ${numClasses} classes. Nearest:`;
  return predictions[0].probability < 0.5 ? "Not sure; perhaps" : "This looks like";
}

/**
 * The short list in words; empty where there is none.
 *
 * It holds the right class as often as promised only for photos like those of the classes, so not for others.
 */
export function shortList({ set, taxon, known }) {
  if (!set?.length || known === false) return "";
  const holds = `holds the right class for ${Math.round(COVERAGE * 10)} of 10 photos`;
  if (set.length === 1) return `Nothing else is on the short list, which ${holds}.`;
  const more = set.length - MOST_NAMED;
  const named = more > 0 ? [...set.slice(0, MOST_NAMED), more === 1 ? set.at(-1) : `${more} others`] : set;
  const common = taxon ? ` All are of the ${taxon.rank} ${taxon.name}.` : "";
  return `The short list, which ${holds}: ${named.slice(0, -1).join(", ")} or ${named.at(-1)}.${common}`;
}

/** The two classes of a short list of two that are not contrasted yet; null otherwise. */
export function twoToContrast(result) {
  const { set, versus } = result;
  return shortList(result) && set.length === 2 && !versus ? set : null;
}
