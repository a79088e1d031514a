// A slider fades the heat maps over their images. The source lies under its heat map; its bytes are in the page once.

function slider(input) {
  const card = input.closest(".card");
  const apply = () => card.style.setProperty("--heat", input.value);
  input.addEventListener("input", apply);
  apply();
}

function underlay(stack) {
  const source = stack.previousElementSibling.cloneNode();
  source.alt = "";
  stack.prepend(source);
}
