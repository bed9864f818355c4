// Numbers as people read them: none is rounded to "nothing" or to "certain" that is not.

/** A probability. */
export function percent(share) {
  if (share < 0.001) return "under 0.1%";
  if (share > 0.9995) return "over 99.9%";
  return `${(100 * share).toFixed(share < 0.0995 || share > 0.99 ? 1 : 0)}%`;
}

/** A share of observers, or how surely a mark is seen, in whole percent; exactly none and all are said as such. */
export function wholePercent(share) {
  if (share > 0 && share < 0.005) return "under 1%";
  if (share < 1 && share >= 0.995) return "over 99%";
  return `${Math.round(100 * share)}%`;
}

/** A raw value of a map. */
export const number = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());
