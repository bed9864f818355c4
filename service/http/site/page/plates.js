// Tiles of the drawn birds, so that there is a picture at hand: only those that the model knows, loaded when seen.

// take({label, words, picture}): what happens to the one that is picked.
export function tiles(plates, labels, element, take) {
  return plates.filter((plate) => labels.includes(plate.label)).map((plate) => {
    const image = element("img", { alt: "", loading: "lazy", width: 96, height: 96, src: plate.picture });
    const button = element("button", { type: "button", title: plate.words }, image, element("span", { textContent: plate.words }));
    button.addEventListener("click", () => take(plate));
    return element("li", {}, button);
  });
}
